"""One worker process, as the front sees it: the calls it has, and whether it is alive."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from coprocess.errors import Status
from coprocess.transport.engine import Rpc
from coprocess.transport.frame_link import Frame, FrameLink
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream
from coprocess.transport.pipe import (
    BEAT,
    BEAT_BODY,
    CANCEL,
    LISTENS,
    OK,
    READY,
    READY_BODY,
    pack_call,
)
from coprocess.transport.relayed import end_relayed

log = structlog.get_logger("coprocess")

#: More than a worker's hooks could run and queue: only one that does not read any more gets there.
MAX_OUTSTANDING = 16_384
#: A worker that is heard of twice a second, and was not for so long, gets calls only where no other can.
_SILENT_S = 2.0
#: For what is left to do in a process that has closed its socket, or was killed.
_END_S = 5.0


class _HandedOver:
    """A call that came by an engine's thread: it is answered without the lock, which its engine may want."""

    __slots__ = ("_rpc", "is_over")

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        #: Nobody waits for its answer.
        self.is_over = False

    def answer(self, status: int, body: bytes) -> None:
        if status == OK:
            self._rpc.respond(body)
        else:
            self._rpc.fail(Status(status), body.decode("utf-8", "replace"))


class WorkerProcess:
    """A process that runs this very command as a worker. Its calls end when it does."""

    def __init__(
        self,
        number: int,
        admin: Path,
        changed: Callable[[], None],
        flags: Sequence[str] = (),
        *,
        server: Server,
    ) -> None:
        """`changed` is called back when `ready` has changed. `flags` are added to this very command.

        Whoever polls `server` answers its calls.

        Raises OSError or RuntimeError where it cannot be started.
        """
        self.number = number
        self._changed = changed
        #: Whether it has told that it can serve.
        self.started = False
        #: Whether it takes calls: it has started, and is heard of.
        self.ready = False
        #: How many hooks it has for them, and what is wrong with its handlers.
        self.hooks = self.problems = 0
        #: Both: it is ready, and has hooks. Others get calls only where none is able.
        self.is_able = False
        #: Where it takes calls itself; empty: it does not, or has not told it yet.
        self.address = ""
        #: When it could serve, by time.monotonic().
        self.ready_since_s: float | None = None
        #: Set when it can serve, or is gone.
        self.settled = threading.Event()
        #: Calls that it answered by its last write.
        self.at_once = 1
        #: Changed with the server's lock. A stream: a call that is relayed.
        self.outstanding: dict[int, Stream | _HandedOver] = {}
        #: Why it was killed; empty: it was not.
        self.killed = ""
        self._server = server
        self._lock = server.lock
        #: Set when none of its calls is left.
        self.over = threading.Event()
        self._gone = False
        self._ended = threading.Event()
        self._signal_later: int | None = None
        self._frames_heard = self._notices_heard = 0
        self._longest_limit_s = 0.0
        self._frames_heard_before = 0
        self._read_bytes_before = 0
        self._silent_s = self._unread_s = self._starts_s = self._waits_s = 0.0
        # A worker that was killed may have left a child that listens there.
        admin.unlink(missing_ok=True)
        ours, theirs = socket.socketpair()
        with theirs:
            words = [*_own_command(), "--admin", f"unix:{admin}"]
            words += ["--worker-fd", str(theirs.fileno()), "--worker-number", str(number), *flags]
            try:
                # A process group of its own: Ctrl-C is for the front, which then ends the workers in order.
                self.process = subprocess.Popen(  # noqa: S603 - this very command, with the user's own arguments
                    words, pass_fds=[theirs.fileno()], process_group=0
                )
            except BaseException:
                ours.close()
                raise
        self.link = FrameLink(server, ours, self._receive, self._lose_calls)
        #: Its link's; once it is gone, one that takes nothing.
        self.put: Callable[[int, int, bytes, bytes], bool] = self.link.put
        self.put_later: Callable[[int, int, int, bytes, bytes], bool] = self.link.put_later
        try:
            threading.Thread(target=self._wait, name=f"worker-{number}-end", daemon=True).start()
        except BaseException:
            self.link.close()
            self.process.kill()
            raise

    def _wait(self) -> None:
        self.process.wait()
        self._ended.set()
        # Its end of the socket may be open still, in a process that it had forked.
        self.link.end()
        # Where nobody polls any more.
        if not self.over.wait(_END_S):
            self._lose_calls()

    def send(self, call_id: int, method: int, rpc: Rpc, metadata: Sequence[tuple[str, str]]) -> bool:
        """Pass a call on, with some of its metadata. False where the worker is gone or does not keep up."""
        kind, before = pack_call(method, rpc.time_allowed_s(), metadata)
        call = _HandedOver(rpc)
        rpc.on_cancel(lambda: self._cancel(call_id, call))
        taken: bool = self._server.answer(
            self.link,
            lambda frame, call: self.take(call, *frame),
            (call_id, kind, rpc.payload, before),
            call,
        )
        if call.is_over:  # Perhaps it was not there when that was told.
            self._cancel(call_id, call)
        return taken

    def _cancel(self, call_id: int, call: _HandedOver) -> None:
        with self._lock:
            call.is_over = True
            self._give_up(call_id)
        self._server.wake()  # It is written before the next poll.

    # With the server's lock.

    def take(
        self, call: Stream | _HandedOver, call_id: int, kind: int, message: bytes, before: bytes
    ) -> bool:
        """Pass a call on. False where the worker is gone or does not keep up."""
        outstanding = self.outstanding
        if len(outstanding) >= MAX_OUTSTANDING or not self.put(call_id, kind, message, before):
            return False
        outstanding[call_id] = call
        return True

    def cancelled(self, stream: Stream) -> None:
        """Nobody waits any more for the answer of a call that was relayed; perhaps it was given."""
        self._give_up(stream.call_id)

    def _give_up(self, call_id: int) -> None:
        # It stays with the calls that the worker has until that answers: the handler may run on, and a worker
        # that hangs would seem to be the idlest of all.
        if call_id in self.outstanding:
            self.link.put(call_id, CANCEL, b"", keep=True)

    def _receive(self, frames: list[Frame]) -> None:
        outstanding, server = self.outstanding, self._server
        self._frames_heard += len(frames)
        self.at_once = len(frames)
        for call_id, kind, body in frames:
            call = outstanding.pop(call_id, None)
            if type(call) is Stream and kind == OK:
                # As `_end`, in place: nearly each answer comes by.
                connection = call.owner
                try:
                    connection.respond(call, body)
                    if not connection.is_dirty:
                        server.write_later(connection)
                except Exception:  # noqa: BLE001 - it is logged there
                    server.end_failed(connection)
            elif call is not None:
                self._end(call, kind, body)
            else:
                server.callbacks.append(partial(self._take_notice, kind, body))

    def _end(self, call: Stream | _HandedOver, status: int, body: bytes) -> None:
        """Answer a call with a reply, or with a status other than OK and its message."""
        if isinstance(call, _HandedOver):
            self._server.callbacks.append(partial(call.answer, status, body))
            return
        try:
            end_relayed(self._server, call, status, body)
        except Exception:  # noqa: BLE001 - it is logged there; the others are answered
            self._server.end_failed(call.owner)

    def _lose_calls(self) -> None:
        """It is gone: those that it had fail."""
        if self.over.is_set():
            return
        with self._lock:
            self._gone, self.ready, self.is_able, self.started = True, False, False, False
            self.put, self.put_later = _put_nothing, _put_nothing
            lost, self.outstanding = self.outstanding, {}
            for call in lost.values():
                self._end(call, Status.UNAVAILABLE, b"the worker process ended")
        self._server.wake()  # They are told before the next poll.
        self.settled.set()
        self._changed()
        self.over.set()

    @property
    def has_answered(self) -> bool:
        """Whether it has answered a call."""
        return self._frames_heard > self._notices_heard

    def _take_notice(self, kind: int, body: bytes) -> None:
        self._notices_heard += 1
        if kind == BEAT:
            self._longest_limit_s, self._waits_s = BEAT_BODY.unpack(body)
        elif kind == LISTENS:
            self.address = body.decode()
        elif kind == READY:
            self.hooks, self.problems = READY_BODY.unpack(body)
            if self.started:
                with self._lock:
                    self.is_able = self.ready and self.hooks > 0
                self._changed()
                return
            self.ready_since_s = time.monotonic()
            with self._lock:
                self.started = self.ready = True
                self.is_able = self.hooks > 0
                late, self._signal_later = self._signal_later, None
            if late is not None:
                self.process.send_signal(late)
            self.settled.set()
            self._changed()

    def look_after(self, passed_s: float, *, start_s: float, silence_s: float) -> None:
        """Note what was heard of it since the last time, `passed_s` ago, and kill it where it hangs.

        It hangs where it has not started within `start_s`; where it was silent for `silence_s`; or where it
        has taken no calls off its socket, or begun none, for that time and the longest a handler may run.
        """
        if self._gone or self.killed:
            return
        heard = self._frames_heard
        is_silent, self._frames_heard_before = heard == self._frames_heard_before, heard
        if not self.started:
            self._starts_s += passed_s
            if self._starts_s > start_s:
                self._kill(f"it has not started within {start_s:g} s")
            return
        self._silent_s = self._silent_s + passed_s if is_silent else 0.0
        self._become_ready(self._silent_s <= _SILENT_S)
        read, unread = self.link.read_and_unread_bytes()
        self._unread_s = self._unread_s + passed_s if unread and read == self._read_bytes_before else 0.0
        self._read_bytes_before = read
        if self._silent_s > silence_s:
            self._kill(f"it was silent for {silence_s:g} s: stopped, or its interpreter is held")
        elif max(self._unread_s, self._waits_s) > silence_s + self._longest_limit_s:
            self._kill("it takes no calls any more: all its threads hang")

    def _become_ready(self, ready: bool) -> None:
        with self._lock:
            changed = not self._gone and ready != self.ready
            if changed:
                self.ready, self.is_able = ready, ready and self.hooks > 0
        if changed:
            if not ready:
                log.warning("a worker process is silent", worker=self.number, calls=len(self.outstanding))
            self._changed()

    def _kill(self, why: str) -> None:
        self.killed = why
        log.error("a worker process hangs: it is killed", worker=self.number, because=why)
        self.process.kill()
        # Its calls end now, also where the kernel takes its time.
        self.link.end()

    def signal(self, number: int) -> None:
        """Send a signal, now or when it has started: before, it would end the process."""
        with self._lock:
            if not self.started:
                self._signal_later = number
                return
        self.process.send_signal(number)

    def end(self) -> None:
        """Have it end: it stops when its socket does."""
        if not self.started:
            if not self._gone:  # Else it ends by itself, and tells why in its log.
                self.process.terminate()
        elif not self.ready:
            self.process.kill()  # It is silent.
        self.link.end()

    def end_within(self, timeout_s: float) -> None:
        """Wait for its end, and kill it where that takes longer."""
        if not self._ended.wait(timeout_s if self.started else min(timeout_s, _END_S)):
            self.process.kill()
            self._ended.wait(_END_S)

    def clear_up(self) -> int | None:
        """See that the process ends, once its calls are `over`. Its exit status; None: it has not ended."""
        self.link.close()
        self.end_within(_END_S)
        return self.process.returncode


def _put_nothing(*frame: int | bytes) -> bool:
    return False


def _own_command() -> list[str]:
    # -P: a file of the working folder must not pass for a module. What is added to the flags comes later, and
    # wins.
    return [sys.executable, "-P", "-m", "coprocess", *sys.argv[1:]]
