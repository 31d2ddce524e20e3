"""The http2 engine among connections: who asks for much, or is new, has its turns after the others."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coprocess.transport.engine import Rpc
from coprocess.transport.http2 import frames
from coprocess.transport.http2 import server as server_module
from coprocess.transport.http2.grpc_connection import Method
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.polling import _Epoll, _Selector
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.turns import Turns, _Turn
from coprocess.transport.http2.waiting import TAKEN_AT_ONCE, FairQueue
from coprocess.transport.http2_engine import Http2Engine
from tests.engines.hooks import methods, tcp_connection
from tests.engines.test_http2_connections import METHOD_CALL, read_frames
from tests.http2.peer import START, call, parse
from tests.server import PATIENCE_S, engine_options, until

_PING = frames.frame(frames.PING, 0, 0, bytes(8))


def test_tasks_of_one_line_wait_for_one_of_each_other() -> None:
    queue: FairQueue[str] = FairQueue()
    first: deque[str] = deque()
    second: deque[str] = deque()
    for number in range(3):
        queue.put(first, f"first {number}")
    queue.put(second, "second 0")
    assert queue.take_one() == "first 0"
    queue.put(second, "second 1")
    assert [queue.take_one() for _ in range(5)] == ["second 0", "first 1", "second 1", "first 2", None]
    assert not queue.lines
    assert queue.count == 0


def test_a_few_tasks_of_one_line_are_taken_in_a_row() -> None:
    queue: FairQueue[int] = FairQueue()
    lines: list[deque[int]] = [deque(), deque(), deque()]
    for number in range(18):
        queue.put(lines[number % 3], number)
    assert queue.take(10) == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5]
    assert queue.count == 8
    assert queue.take(2) == [12, 15]
    assert queue.take_line(lines[1]) == [13, 16]
    assert queue.count == 4
    assert queue.take(8) == [8, 11, 14, 17]
    assert queue.take(8) == []
    assert queue.count == 0


def test_tasks_that_are_over_are_dropped_and_the_others_keep_their_order() -> None:
    queue: FairQueue[int] = FairQueue()
    lines: list[deque[int]] = [deque(), deque()]
    for number in range(6):
        queue.put(lines[number % 2], number)
    assert sorted(queue.drop(lambda number: number in {0, 1, 3, 5})) == [0, 1, 3, 5]
    assert queue.count == 2
    assert queue.take(3) == [2, 4]


@pytest.mark.parametrize("make", [_Epoll, _Selector])
def test_of_those_that_come_later_one_at_a_time_is_told_of_in_turn(make: Callable[[], Any]) -> None:
    poller, told = make(), []
    pairs = [socket.socketpair() for _ in range(5)]

    def note(number: int) -> Callable[[int], None]:
        return lambda events: told.append(number)

    for number, (ours, theirs) in enumerate(pairs):
        poller.watch(ours, selectors.EVENT_READ, note(number), later=number > 1)
        theirs.send(b"there")
    rounds = []
    for _ in range(6):
        for ready, events in poller.poll(0.0):
            ready(events)
        assert sorted(told) == [0, 1]
        assert poller.has_later
        ready, events = poller.next_later()
        ready(events)
        rounds.append(told.pop())
        told.clear()
    assert sorted(rounds) == [2, 2, 3, 3, 4, 4]
    poller.watch(pairs[2][0], 0, note(2), later=True)  # It is not to be told of.
    poller.watch(pairs[3][0], selectors.EVENT_READ, note(3), later=False)
    poller.remove(pairs[4][0])
    for ready, events in poller.poll(0.0):
        ready(events)
    assert sorted(told) == [0, 1, 3]
    assert poller.next_later() is None
    assert not poller.has_later
    poller.close()
    for pair in pairs:
        for each in pair:
            each.close()


@contextmanager
def polled(
    count: int, limits: Limits | None = None, methods: dict[str, Method] | None = None
) -> Iterator[tuple[Server, list[Http2Protocol], list[socket.socket]]]:
    """A server that the test polls, so many connections, and their clients."""
    engine = Server(methods or {}, limits or Limits())
    engine.open()
    pairs = [socket.socketpair() for _ in range(count)]
    connections = []
    for ours, _ in pairs:
        before = engine.connections()
        engine._add(ours, None)
        connections += [each for each in engine.connections() if each not in before]
    try:
        yield engine, connections, [theirs for _, theirs in pairs]
    finally:
        engine.close()
        for _, theirs in pairs:
            theirs.close()


def later(connection: Http2Protocol) -> bool:
    return connection.comes_later


def acknowledged(client: socket.socket) -> int:
    """PINGs that were answered since the last time."""
    client.setblocking(False)
    try:
        came = client.recv(1 << 20)
    except BlockingIOError:
        return 0
    return sum(each.kind == frames.PING for each in parse(came))


def test_a_new_connection_comes_later_until_it_was_looked_at() -> None:
    with polled(1) as (_, (connection,), _clients):
        assert later(connection)
        connection.look(0.0)
        assert not later(connection)


def test_who_is_alone_comes_with_all_others_though_its_calls_wait_when_it_is_looked_at() -> None:
    """Once, one gateway alone came later for ever, as always some of its calls had come just before."""
    with polled(1) as (engine, (connection,), _clients):
        waiting: deque[Any] = deque()
        engine.waiting = waiting
        for number in range(3):
            connection.calls.append(number)
        assert not waiting
        connection.look(0.0)
        assert not later(connection)
        assert list(waiting) == [0, 1, 2]
        assert not engine.later.lines
        connection.calls.append(3)
        assert list(waiting) == [0, 1, 2, 3]


def test_who_uses_more_than_its_share_comes_later_where_others_want_something() -> None:
    with polled(1) as (engine, (connection,), _clients):
        connection.look(0.0)
        connection._use.read_s = 10.0
        connection._see_use()
        assert not later(connection)  # It is alone.
        engine.switches = 100
        connection._see_use()
        assert later(connection)
        engine._look([])
        assert later(connection)  # It has used much in the second before.
        engine._look([])
        assert not later(connection)


def test_who_brings_many_calls_where_many_wait_comes_later_and_who_brings_one_does_not() -> None:
    with polled(1) as (engine, (connection,), (client,)):
        connection.look(0.0)
        client.sendall(START)
        for waiting, begun, comes_later in ((100, 20, False), (200, 1, False), (200, 20, True)):
            engine.waiting = range(waiting)
            first = connection.grpc.http.ids.highest + 2 | 1
            client.sendall(b"".join(call(first + 2 * number) for number in range(begun)))
            engine.poll(0.0)
            assert connection.grpc.http.ids.highest == first + 2 * (begun - 1)
            assert later(connection) is comes_later


def test_who_has_more_calls_than_are_run_comes_later_though_reading_them_takes_no_time() -> None:
    """Once, one whose calls were read seldom, as many waited, had its turns with the others again."""
    with polled(1) as (engine, (connection,), (client,)):
        engine.switches = 100
        client.sendall(START)
        engine.poll(0.0)
        for number in range(3):
            connection.calls.append(number)
        connection.look(0.0)
        assert later(connection)  # They wait.
        connection.line.leave()
        client.sendall(_PING)
        connection.look(0.0)
        assert later(connection)  # What it has sent was not read.
        engine.poll(0.0)
        connection.grpc.http.ids.highest += 2 * 10_000
        connection.look(0.0)
        assert later(connection)  # Each has taken its time.
        connection.look(0.0)
        assert not later(connection)


def test_a_new_connection_that_asks_for_little_comes_with_the_others_soon() -> None:
    """It came later for a second, as those that attack do."""
    for read_s, calls_before, comes_later in ((0.001, 0, False), (5.0, 0, True), (0.001, 50_000, True)):
        with polled(1) as (engine, (connection,), (client,)):
            client.sendall(START + _PING)
            engine.poll(0.0)
            assert later(connection)
            connection._use._began_s -= 20.0  # Whatever a busy machine makes of what is read here.
            connection._use.read_s = read_s
            connection.grpc.http.ids.highest = 2 * calls_before + 1
            client.sendall(call(2 * calls_before + 3))
            engine.poll(0.0)
            assert later(connection) is comes_later


def test_connections_that_come_later_wait_for_calls_of_others_once() -> None:
    with polled(2) as (engine, (first, good), clients):
        for client in clients:
            client.sendall(START)
        engine.poll(0.0)
        engine.poll(0.0)
        engine.switches = 0
        good.look(0.0)
        for client in clients:
            acknowledged(client)
        taken = []
        for _ in range(4):
            for client in clients:
                client.sendall(_PING)
            engine.poll(0.0)
            with engine.lock:
                engine.flush()
            taken.append([acknowledged(client) for client in clients])
        assert later(first)
        assert taken == [[0, 1], [2, 1], [0, 1], [2, 1]]


class _Written:
    """In the place of a connection that has answers to write."""

    def __init__(self) -> None:
        self.is_dirty = False
        self.times = 0

    def write(self) -> None:
        self.is_dirty = False
        self.times += 1

    def close_if_done(self) -> None: ...

    def abort(self) -> None: ...


@pytest.mark.parametrize("has_first", [False, True])
def test_answers_do_not_wait_for_calls_that_come_later(has_first: bool) -> None:
    """They were written once those had run for half a millisecond."""
    with polled(0) as (engine, _connections, _clients):
        written, times = _Written(), []

        def run(task: str) -> None:
            times.append((task, written.times))
            engine.write_later(written)
            turns.is_stopped = len(times) == 4 + has_first

        turns: Turns[str] = Turns(engine, run, "after")
        turn = turns._turn = _Turn(threading.get_ident())
        turns._idle.append((_Turn(0), threading.Lock()))  # Another could go on with polling.
        line: deque[str] = deque()
        for _ in range(4):
            engine.later.put(line, "later")
        if has_first:
            turns.tasks.append("first")
        assert turns._poll(turn) is None
        assert [task for task, _ in times] == ["first"] * has_first + ["later"] * 4
        # Those behind it may be written for once more, where the machine is busy.
        assert times[has_first] == ("later", int(has_first))


def test_connections_that_come_later_are_not_read_while_many_of_their_calls_are_run() -> None:
    """80,000 calls were read as fast as they came, and made the collector of garbage slow."""
    with polled(1) as (engine, _connections, (client,)):
        client.sendall(START)
        engine.poll(0.0)
        acknowledged(client)
        line: deque[Any] = deque()
        for number in range(1000):
            engine.later.put(line, number)
        taken = []
        for ended in (0, 100, 100, 0, 350, 100):
            client.sendall(_PING)
            assert len(engine.later.take(ended)) == ended
            engine.poll(0.0)
            with engine.lock:
                engine.flush()
            taken.append(acknowledged(client))
        assert taken == [1, 0, 0, 3, 1, 1]


def test_one_turn_of_a_connection_that_comes_later_is_short_and_one_at_a_time() -> None:
    """Sixteen of 128 frames each were taken before anybody was answered: that took 6 ms."""
    with polled(8) as (engine, connections, clients):
        connections.pop().look(0.0)
        for client in clients:
            client.sendall(START + 500 * _PING)
        engine.switches = 100  # Several want something.
        for each in connections:
            each._bound_turns()
        taken = []
        for _ in range(40):
            engine.poll(0.0)
            with engine.lock:
                engine.flush()
            taken.append([acknowledged(client) for client in clients])
        # One that goes on, and one that has a first turn; or four, where the good one is not ready.
        assert all(sum(each[:-1]) <= 5 * 32 for each in taken)
        assert sum(taken[0][:-1]) == 0
        assert taken[0][-1] > 64
        # All have their turns.
        assert all(sum(each[place] for each in taken) > 32 for place in range(8))


def test_a_call_does_not_wait_behind_all_those_of_another_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, it waited for a second where others had a thousand calls each."""
    # On a busy machine, the second comes long after the first, which would be looked at while it is alone.
    monkeypatch.setattr(server_module, "_LOOK_INTERVAL_S", PATIENCE_S)
    began, release = threading.Event(), threading.Event()
    ran: list[bytes] = []

    def wait(rpc: Rpc) -> None:
        rpc.may_block()
        ran.append(rpc.payload)
        began.set()
        release.wait(PATIENCE_S)
        rpc.respond(b"")

    engine = Http2Engine(engine_options(min_threads=1, max_threads=1))
    address = engine.listen("127.0.0.1:0")
    engine.start(methods(wait))
    try:
        with tcp_connection(address) as greedy, tcp_connection(address) as other:
            until(lambda: len(engine.server.connections()) == 2)
            for each in engine.server.connections():
                # It stays a new one, however long the first of its bytes take on a busy machine.
                each._use._began_s += PATIENCE_S
            greedy.sendall(
                START + b"".join(call(number, b"greedy", METHOD_CALL) for number in range(1, 401, 2))
            )
            assert began.wait(PATIENCE_S)
            greedy.sendall(_PING)
            next(each for each in read_frames(greedy) if each.kind == frames.PING)
            other.sendall(START + call(1, b"other", METHOD_CALL) + _PING)
            answers = read_frames(other)
            next(each for each in answers if each.kind == frames.PING)
            # All have come.
            release.set()
            next(each for each in answers if each.kind == frames.DATA)
            # Behind those that are taken at once, and the next few of the other connection.
            assert ran.index(b"other") <= TAKEN_AT_ONCE + 4
    finally:
        release.set()
        engine.stop()
