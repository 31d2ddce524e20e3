"""What ran in a trial: each handler, with how it ended and what it printed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from coprocess.api.functions import Source
from coprocess.desk.output import collecting_output
from coprocess.desk.tracebacks import how_it_failed, own_traceback
from coprocess.errors import CoprocessError, HandlerFailed
from coprocess.loading.hooks import Hook
from coprocess.runtime.call import Call
from coprocess.transport.engine import Rpc


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """How long something ran, and what it printed, within `measured`."""

    seconds: float = 0.0
    parts: list[str] = field(default_factory=list)

    @property
    def output(self) -> list[str]:
        return "".join(self.parts).splitlines()

    @contextmanager
    def measured(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            with collecting_output() as self.parts:
                yield
        finally:
            self.seconds = time.perf_counter() - started


@dataclass(slots=True, eq=False)
class HookRun(Run):
    """One call of a handler."""

    hook: Hook
    rpc: Rpc
    failure: CoprocessError | None = None

    @property
    def type(self) -> str:
        return self.hook.type.name

    @property
    def name(self) -> str:
        return self.hook.name

    @property
    def source(self) -> Source | None:
        return self.hook.source

    @property
    def failed(self) -> bool:
        """Also where the request went on all the same (`on_error="open"`)."""
        return self.failure is not None

    @property
    def error(self) -> str | None:
        return None if self.failure is None else str(self.failure)

    @property
    def raised(self) -> BaseException | None:
        """What the handler raised; None where it did not."""
        cause = self.failure.__cause__ if self.failure is not None else None
        return None if isinstance(cause, HandlerFailed) else cause

    @property
    def traceback(self) -> list[str]:
        """Of what it raised, with its own frames only."""
        return own_traceback(self.raised) if self.raised is not None else []

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "type": self.type,
            "name": self.name,
            "source": str(self.source) if self.source else None,
            "error": self.error,
            "traceback": self.traceback,
            "output": self.output,
            "ms": round(self.seconds * 1000, 3),
        }


def told(run: HookRun) -> tuple[str, str, str]:
    """Of one that failed: how, what came of it, and what to do."""
    if run.type == "Event":
        effect = "Events change no request: the failure is logged, and the event is not handled again."
    elif run.hook.limits.on_error == "open":
        effect = 'It has on_error="open": the request went on without it.'
    else:
        effect = "The client gets an error, so that nobody goes round the handler."
    return (
        how_it_failed(run.type, run.name, run.raised, run.error),
        effect,
        "Mend the handler: the traceback above shows the place."
        if run.traceback
        else "Mend the handler as the message says.",
    )


class HookWatch:
    """Follows the calls of a service, in the place of its traces."""

    def __init__(self) -> None:
        self.runs: list[HookRun] = []

    def of(self, rpc: Rpc) -> Rpc:
        return rpc

    def within(self, rpc: Rpc, call: Call) -> Rpc:
        return rpc

    def request(self, method: str, api_id: str, headers: Iterable[tuple[str, str]]) -> NoReturn:
        raise NotImplementedError("requests are not followed, but their calls")

    def local_event(self, rpc: Rpc) -> Rpc:
        return rpc

    def know_hook(self, rpc: Rpc, call: Call) -> None:
        """It is known when it runs."""

    def ids(self, rpc: Rpc) -> dict[str, str]:
        return {}

    def run(self, call: Call) -> bytes:
        with self._followed(call):
            return call.run()

    async def run_async(self, call: Call) -> bytes:
        with self._followed(call):
            return await call.run_async()

    def failed(self, rpc: Rpc, error: CoprocessError) -> None:
        for run in self.runs:
            if run.rpc is rpc:
                run.failure = run.failure or error

    @contextmanager
    def _followed(self, call: Call) -> Iterator[None]:
        run = HookRun(call.hook, call.rpc)
        self.runs.append(run)
        try:
            with run.measured():
                yield
        except HandlerFailed as error:
            run.failure = error
            raise
