"""The simulated Kong, given a recorded server's answers: each of its requests must be the recorded one.

Kong's tasks run as far as they can. What goes over connections, and when, is led by the recording: a task
that wants to send waits until the frame comes that it wants to send. So requests that were in flight together
are so here, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from coprocess.bounded import repr_of
from coprocess.desk.kong.replay.compare import body_differences, frame_differences, header_differences
from coprocess.desk.kong.replay.recording import Cut, Exchange, Frame, Recording, decoded, responses_of
from coprocess.desk.kong.replay.world import RecordedService, facts_of, upstream_names
from coprocess.desk.kong.simulator.entities import PluginEntity, load_entities
from coprocess.desk.kong.simulator.exchange import (
    AskUpstream,
    AwaitBody,
    ClientGone,
    EndOfStream,
    Receive,
    Release,
    Send,
    Sleep,
    Spawn,
    Task,
    Wait,
)
from coprocess.desk.kong.simulator.exchange import Exchange as KongExchange
from coprocess.desk.kong.simulator.gateway import Kong
from coprocess.desk.kong.simulator.http import ClientRequest, Headers, parse_requests
from coprocess.desk.kong.simulator.lua import LuaError, NeedMore, decode, from_wire
from coprocess.desk.kong.simulator.rpc import Worker

#: Kong's read timeout: whoever waited so long gives up.
_TIMEOUT_S = 59.0
_MISSING = "lualib/MessagePack.lua:831: missing bytes"


@dataclass(eq=False, slots=True)
class _Running:
    """One task, and what it waits for."""

    task: Task[None]
    worker: Worker
    #: Whose requests it serves; None: what runs after an answer, as the log phase.
    client: _Client | None = None
    body_gone: bool = False
    wait: Wait | None = None
    connection: int | None = None
    sent_at: float = 0.0
    is_done: bool = False


@dataclass(slots=True)
class _Client:
    """One recorded exchange, and the requests in it."""

    recorded: Exchange
    made: list[KongExchange] = field(default_factory=list)


class Player:
    """One recording."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.problems: list[str] = []
        #: What is missing, perhaps as the recording ended first.
        self.notes: list[str] = []
        entities = load_entities(recording.declarative, recording.plugins)
        ports = {service.port for service in entities.services}
        # What a set_upstream leads to is in no recording: the second service of them all.
        port = next(
            (int(each["port"]) for each in recording.upstream if int(each["port"]) not in ports), 21101
        )
        for name in upstream_names(recording):
            entities.upstreams.setdefault(name, (f"127.0.0.1:{port}",))
        self.kong = Kong(entities, facts_of(recording))
        self.service = RecordedService(recording, ports)
        self.running: list[_Running] = []
        self.clients = [_Client(each) for each in recording.exchanges]
        self.unstarted = deque(self.clients)
        self.owners: dict[int, Worker] = {}
        self.partial = {frame.connection for frame in recording.frames if frame.kind == "unfinished"}
        self.sizes = recording.sizes
        self.last_answer: tuple[int, Any] | None = None

    def play(self) -> list[str]:
        """The differences."""
        frames = self.recording.frames
        for index, frame in enumerate(frames):
            if frame.kind == "elided":
                self._elided(frames[index + 1 :])
            elif frame.kind == "frame" and frame.from_kong:
                self._kong_sends(frame)
            elif frame.kind == "frame":
                self._server_answers(frame)
            elif frame.kind == "lost":
                self._nobody_there(frame)
            elif frame.kind == "eof":
                self._closed(frame)
        self._finish()
        self.problems += self._results()
        return self.problems

    # The tasks

    def _start(self, client: _Client, worker: Worker) -> None:
        recorded = client.recorded
        if recorded.is_action:
            self._act(recorded)
            return
        if recorded.is_stream:
            x = self.kong.exchange(ClientRequest("", b"", 1.1, Headers()), worker)
            client.made.append(x)
            service = self.kong.entities.services[0]
            self._run(self.kong.serve_stream(x, service, recorded.request), worker, client)
            return
        requests = deque(parse_requests(recorded.request))
        body_gone = self._is_broken_off(requests[-1], recorded)
        self._run(self._requests(client, requests, worker), worker, client, body_gone)

    def _is_broken_off(self, request: ClientRequest, recorded: Exchange) -> bool:
        if recorded.response == {}:
            request.is_left = True
        return request.is_broken_off

    def _requests(self, client: _Client, requests: deque[ClientRequest], worker: Worker) -> Task[None]:
        """One after the other, as they come on a client's connection."""
        for request in requests:
            if client.recorded.sni is not None:
                request.scheme = "https"
            x = self.kong.exchange(request, worker)
            x.sni = client.recorded.sni
            client.made.append(x)
            yield from self.kong.serve(x)

    def _act(self, recorded: Exchange) -> None:
        """What was done to Kong between requests: of a new configuration, the frames tell what is in it."""
        for frame in self.recording.frames:
            message = frame.message
            if not frame.from_kong or not isinstance(message, list) or message[2] != "plugin.StartInstance":
                continue
            import json

            config = json.loads(message[3][0]["Config"])
            for entity in self.kong.entities.plugins:
                if entity.id == config.get("__plugin_id"):
                    self._renew(entity, config)

    def _renew(self, entity: PluginEntity, config: dict[str, Any]) -> None:
        """Take over a configuration that differs from the one before."""
        own = {
            name: value
            for name, value in config.items()
            if not name.startswith("__") and name not in ("route_id", "service_id", "consumer_id")
        }
        if own != entity.config:
            entity.config = own
            entity.sequence += 1

    def _run(
        self, task: Task[None], worker: Worker, client: _Client | None = None, body_gone: bool = False
    ) -> None:
        running = _Running(task, worker, client, body_gone)
        self.running.append(running)
        self._step(running, None)

    def _step(self, running: _Running, value: Any, error: BaseException | None = None) -> None:
        """On, until it waits for something that the recording leads."""
        while True:
            try:
                wait = running.task.send(value) if error is None else running.task.throw(error)
            except StopIteration:
                running.is_done, running.wait = True, None
                self.running.remove(running)
                return
            value = error = None
            running.wait = wait
            if isinstance(wait, (Send, Receive, Sleep)):
                return
            if isinstance(wait, Release):
                running.connection = None
            elif isinstance(wait, Spawn):
                self._run(wait.task, running.worker)
            elif isinstance(wait, AwaitBody):
                error = ClientGone() if running.body_gone else None
            elif isinstance(wait, AskUpstream):
                try:
                    value = self.service(wait.request)
                except ConnectionError as refused:
                    error = refused

    # What the recording leads

    def _kong_sends(self, frame: Frame) -> None:
        expected = self._decoded(frame)
        running = self._sender(frame, expected)
        if running is None:
            self.problems.append(f"{_place(frame)}: Kong sent {_shown(expected)}, the simulated one nothing")
            return
        wait = running.wait
        assert isinstance(wait, Send)  # noqa: S101 - that is what was looked for
        busy = next((each for each in self.running if each.connection == frame.connection), None)
        if busy is not None:
            self.problems.append(f"{_place(frame)}: the connection is in use by another request")
        self.owners[frame.connection] = running.worker
        message_id = running.worker.next_message_id(wait.plugin)
        made = decode(wait.frame(message_id))
        self.problems += [f"{_place(frame)}: {text}" for text in frame_differences(expected, made)]
        if frame.raw is not None and len(frame.raw) != len(wait.frame(message_id)) and expected == made:
            self.problems.append(f"{_place(frame)}: the same values in other bytes")
        running.connection, running.sent_at = frame.connection, frame.at
        self._step(running, expected[1] if isinstance(expected[1], int) else message_id)

    def _sender(self, frame: Frame, expected: Any) -> _Running | None:
        """The task that wants to send this; if need be, after others were woken, or a request has come."""
        for attempt in self._attempts(frame, expected):
            if attempt:
                best = self._best(frame, expected)
                if best is not None and not list(frame_differences(expected, self._wanted(best, expected))):
                    return best
        return self._best(frame, expected)

    def _attempts(self, frame: Frame, expected: Any) -> Iterator[bool]:
        yield True
        yield self._time_out(frame)
        yield self._wake_sleepers()
        while self.unstarted:
            client = self.unstarted.popleft()
            self._start(client, self._worker_for(frame, expected))
            yield True

    def _best(self, frame: Frame, expected: Any) -> _Running | None:
        owner = self.owners.get(frame.connection)
        candidates = [
            each
            for each in self.running
            if isinstance(each.wait, Send)
            and each.wait.plugin == frame.plugin
            and (owner is None or each.worker is owner)
        ]
        return min(
            candidates,
            key=lambda each: len(list(frame_differences(expected, self._wanted(each, expected)))),
            default=None,
        )

    @staticmethod
    def _wanted(running: _Running, expected: Any) -> Any:
        wait = running.wait
        assert isinstance(wait, Send)  # noqa: S101 - senders only
        return decode(wait.frame(expected[1]))

    def _worker_for(self, frame: Frame, expected: Any) -> Worker:
        if (owner := self.owners.get(frame.connection)) is not None:
            return owner
        number = expected[1]
        fitting = [each for each in self.kong.workers if each.message_ids.get(frame.plugin, 0) + 1 == number]
        argument = expected[3][0] if isinstance(expected[3], list) and expected[3] else None
        instance = from_wire(argument.get("InstanceId")) if isinstance(argument, dict) else None
        for worker in fitting:
            known = [each.id for key, each in worker.instances.items() if worker.plugins[key] == frame.plugin]
            if instance is None or instance in known:
                return worker
        if not fitting and number == 1:
            self.kong.workers.append(Worker(len(self.kong.workers)))
            return self.kong.workers[-1]
        return fitting[0] if fitting else self.kong.workers[0]

    def _wake_sleepers(self) -> bool:
        sleepers = [each for each in self.running if isinstance(each.wait, Sleep)]
        for each in sleepers:
            self._step(each, None)
        return bool(sleepers)

    def _time_out(self, frame: Frame) -> bool:
        waiting = [
            each
            for each in self.running
            if isinstance(each.wait, Receive) and frame.at - each.sent_at >= _TIMEOUT_S
        ]
        for each in waiting:
            self._end_of_stream(each)
        return bool(waiting)

    def _server_answers(self, frame: Frame) -> None:
        running = self._on(frame.connection)
        if running is None:
            # Kong has its answer, and reads no further.
            return
        try:
            value = self._decoded(frame)
        except LuaError as error:
            self._step(running, None, error)
            return
        self.last_answer = frame.connection, value
        self._step(running, value)

    def _on(self, connection: int) -> _Running | None:
        return next(
            (
                each
                for each in self.running
                if each.connection == connection and isinstance(each.wait, Receive)
            ),
            None,
        )

    def _decoded(self, frame: Frame) -> Any:
        if frame.raw is None:
            return self._rebuilt(decoded(frame.message)) if not frame.from_kong else decoded(frame.message)
        try:
            return decode(frame.raw)
        except NeedMore:
            raise LuaError(_MISSING) from None

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, Cut):
            return value.rebuilt(self.sizes)
        if isinstance(value, list):
            return [self._rebuilt(item) for item in value]
        if isinstance(value, dict):
            return {key: self._rebuilt(item) for key, item in value.items()}
        return value

    def _elided(self, rest: list[Frame]) -> None:
        """Frames alike were left out: the last answer, again, until the next that is there."""
        following = next((each for each in rest if each.kind == "frame" and each.from_kong), None)
        if following is None or self.last_answer is None:
            self.problems.append("frames were left out, and nothing tells which")
            return
        connection, answer = self.last_answer
        last_id = self._decoded(following)[1]
        while (running := self._sending(following.plugin)) is not None or self._on(connection):
            if running is not None:
                if running.worker.message_ids[following.plugin] + 1 >= last_id:
                    return
                running.connection = connection
                self._step(running, running.worker.next_message_id(following.plugin))
            elif (waiting := self._on(connection)) is not None:
                number = waiting.worker.message_ids[following.plugin]
                self._step(waiting, [answer[0], number, *answer[2:]])

    def _sending(self, plugin: str) -> _Running | None:
        return next(
            (each for each in self.running if isinstance(each.wait, Send) and each.wait.plugin == plugin),
            None,
        )

    def _nobody_there(self, frame: Frame) -> None:
        """The server was away: what Kong sent, the recording's proxy could not pass on."""
        running = self._on(frame.connection)
        if running is None:
            for _ in self._attempts(frame, [0, 0, "", []]):
                running = self._sending(frame.plugin)
                if running is not None:
                    running.connection = frame.connection
                    self._step(running, running.worker.next_message_id(frame.plugin))
                    break
        if running is not None and isinstance(running.wait, Receive):
            self._end_of_stream(running)

    def _closed(self, frame: Frame) -> None:
        running = self._on(frame.connection)
        if running is not None:
            self._end_of_stream(running)

    def _end_of_stream(self, running: _Running) -> None:
        if running.connection in self.partial:
            self._step(running, None, LuaError(_MISSING))
        else:
            self._step(running, None, EndOfStream())

    def _finish(self) -> None:
        """What goes on after the last frame: answers that never come, requests without a plugin."""
        while self.running or self.unstarted:
            waiting = next((each for each in self.running if isinstance(each.wait, Receive)), None)
            sender = next((each for each in self.running if isinstance(each.wait, Send)), None)
            if sender is not None:
                wait = sender.wait
                assert isinstance(wait, Send)  # noqa: S101 - as was looked for
                shown = _shown([0, 0, wait.method, [decode(wait.frame(0))[3][0]]])
                self.problems.append(f"the simulated Kong sends {shown}, Kong sent nothing")
                self._step(sender, None, ConnectionRefusedError("the recording is at its end"))
            elif waiting is not None:
                self._tell_unanswered(waiting)
                self._end_of_stream(waiting)
            elif not self._wake_sleepers() and self.unstarted:
                self._start(self.unstarted.popleft(), self.kong.workers[0])

    def _tell_unanswered(self, waiting: _Running) -> None:
        """Of what the recording has no answer for: whether Kong had one, as it went on before its time."""
        text = f"connection {waiting.connection}: the recording lacks the answer to what Kong sent last"
        if waiting.client is None:
            self.notes.append(text)
        elif waiting.client.recorded.was_answered_within(_TIMEOUT_S):
            self.problems.append(f"{text}, and Kong went on before its time was over")

    # What came of it

    def _results(self) -> Iterator[str]:
        for index, client in enumerate(self.clients):
            if client.recorded.is_action:
                continue
            yield from (f"exchange {index}: {text}" for text in self._response_differences(client))
        yield from self._upstream_differences()

    def _response_differences(self, client: _Client) -> Iterator[str]:
        recorded = client.recorded
        if recorded.response is None:
            return
        handshake = next((x.handshake_error for x in client.made if x.handshake_error), None)
        expected = responses_of(recorded, len(client.made))
        made = [x.response for x in client.made if x.response is not None and not x.request.is_left]
        if len(made) != len(expected):
            why = f" ({handshake})" if handshake else ""
            yield f"expected {len(expected)} responses, got {len(made)}{why}"
        for (line, headers, body), response in zip(expected, made, strict=False):
            if line != response.status_line:
                yield f"status line: expected {line!r}, got {response.status_line!r}"
            yield from header_differences(headers, response.headers)
            yield from body_differences(body, response.body)

    def _upstream_differences(self) -> Iterator[str]:
        recorded, made = self._own_upstream(), self.service.asked
        if len(recorded) != len(made):
            yield f"upstream: expected {len(recorded)} requests, got {len(made)}"
        remaining = list(made)
        for index, one in enumerate(recorded[: len(made)]):
            # Of requests in flight together, the order is anyone's.
            ranked = [list(_request_differences(one, other)) for other in remaining]
            best = min(range(len(remaining)), key=lambda each: len(ranked[each]))
            yield from (f"upstream {index}: {text}" for text in ranked[best])
            del remaining[best]

    def _own_upstream(self) -> list[dict[str, Any]]:
        """Without what a request of another recording sent late."""
        paths = {b""}
        for client in self.clients:
            if client.recorded.request and not client.recorded.is_stream:
                paths |= {request.path for request in parse_requests(client.recorded.request)}
        return [
            each
            for each in self.recording.upstream
            if dict(each["headers"]).get("X-Forwarded-Path", "").encode("latin-1") in paths
        ]


def _request_differences(recorded: dict[str, Any], made: Any) -> Iterator[str]:
    import base64

    if made.scheme == "tcp":
        request = next(parse_requests(made.body))
        line, headers = f"{request.method} {request.target.decode('latin-1')} HTTP/1.1", request.headers
    else:
        line, headers = f"{made.method} {made.target.decode('latin-1')} HTTP/1.1", made.headers
    for what, one, other in (("port", recorded["port"], made.port), ("line", recorded["line"], line)):
        if one != other:
            yield f"{what}: expected {one!r}, got {other!r}"
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in recorded["headers"]]
    yield from header_differences(Headers(pairs), headers)
    body = decoded(recorded["body_b64"])
    content = body if isinstance(body, Cut) else base64.b64decode(body)
    yield from body_differences(content, b"" if made.scheme == "tcp" else made.body)


def _place(frame: Frame) -> str:
    return f"{frame.plugin}, connection {frame.connection}, {frame.at:.4f} s"


def _shown(message: Any) -> str:
    if isinstance(message, list) and len(message) > 3:
        return f"{message[2]} {repr_of(message[3], 100)}"
    return repr_of(message, 100)
