"""A trial at the simulated Kong, for people at a terminal and for machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from coprocess.bounded import repr_of
from coprocess.cli.trial_text import TrialText as Base
from coprocess.cli.trial_text import from_here
from coprocess.desk.kong.simulator.lua import python
from coprocess.desk.tracebacks import own_traceback

if TYPE_CHECKING:
    from coprocess.desk.hook_runs import HookRun
    from coprocess.desk.kong.simulator.exchange import PdkCall
    from coprocess.desk.kong.simulator.http import Headers
    from coprocess.desk.kong.trial import PhaseRun, Trial

_LONGEST_VALUE = 100
_LOG_LEVELS = {"err": "red", "crit": "red", "error": "red", "warn": "yellow"}


class TrialText(Base):
    """Writes trials as lines."""

    def report(self, trial: Trial) -> Iterator[str]:
        x = trial.exchange
        yield self._title(trial.method, trial.target, f"at Kong {x.kong.facts.version}, simulated")
        calls = [list(group) for _, group in groupby(x.calls, lambda call: (call.plugin, call.phase))]
        for number, run in enumerate(trial.runs, 1):
            yield ""
            yield from self._run(number, run, _taken(calls, run))
        if not trial.runs:
            yield ""
            yield self._dim("no plugin was run")
        yield ""
        yield from self._service(trial)
        yield ""
        yield from self._answer(trial)
        if x.log:
            yield ""
            yield self._bold("error.log")
            for line in x.log:
                text = f"[{line.level}] [{line.plugin}] {line.text.decode('utf-8', 'replace')}"
                yield from self._folded(self._cut([self._coloured(text, line.level)]), indent=5)
        yield from self._findings(trial.findings)

    def _run(self, number: int, run: PhaseRun, calls: list[PdkCall]) -> Iterator[str]:
        failed = self._style("  raised", "red") if run.error is not None else ""
        name = "__init__" if run.phase == "start" else run.phase
        yield self._bold(f"{number}. {run.plugin}  {name}") + f"  {run.seconds * 1000:.1f} ms{failed}"
        yield from self._output(run.output)
        for hook in run.handlers:
            yield from self._handler(hook)
        lines = [shown_call(call) for call in calls]
        if not lines and run.error is None:
            yield self._dim("     calls nothing of the PDK")
        yield from self._folded(self._cut(lines), indent=5)
        if run.error is not None:
            yield from self._traceback(own_traceback(run.error))

    def _handler(self, hook: HookRun) -> Iterator[str]:
        failed = self._style("  failed", "red") if hook.failed else ""
        place = self._dim(from_here(hook.source))
        yield f'     {hook.type} "{hook.name}"  {hook.seconds * 1000:.1f} ms{failed}  {place}'.rstrip()
        yield from self._output(hook.output)
        yield from self._traceback(hook.traceback)

    def _service(self, trial: Trial) -> Iterator[str]:
        sent, reply = trial.exchange.sent, trial.exchange.reply
        if sent is None:
            yield self._not_asked()
            return
        target, name = sent.target.decode("latin-1"), f"{sent.host}:{sent.port}"
        yield from self._asked(sent.method, target, _pairs(sent.headers), sent.body, name)
        if reply is not None:
            yield self._replied(reply.status, reply.body)

    def _answer(self, trial: Trial) -> Iterator[str]:
        response = trial.exchange.response
        if response is None:
            yield self._got_nothing("")
            return
        yield from self._got(response.status, _pairs(response.headers), response.body, trial.seconds)

    def _coloured(self, text: str, level: str) -> str:
        return self._style(text, _LOG_LEVELS[level]) if level in _LOG_LEVELS else text


def _taken(calls: list[list[PdkCall]], run: PhaseRun) -> list[PdkCall]:
    """The calls of this run, which are then no other's."""
    for index, group in enumerate(calls):
        if (group[0].plugin, group[0].phase) == (run.plugin, run.phase):
            return calls.pop(index)
    return []


def shown_call(call: PdkCall) -> str:
    """As a line of code, with what came of it."""
    args = call.args if isinstance(call.args, dict) else {1: call.args}
    values = [python(args.get(index)) for index in range(1, max(args, default=0) + 1)]
    shown = ", ".join(repr_of(value, _LONGEST_VALUE) for value in values)
    line = f"{python(call.method)}({shown})"
    if call.error is not None:
        return f"{line}  ✗ {call.error}"
    return line if call.result is None else f"{line} → {repr_of(python(call.result), _LONGEST_VALUE)}"


def _pairs(headers: Headers) -> Iterable[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.lines]


def trial_as_dict(trial: Trial) -> dict[str, Any]:
    """The whole trial as JSON's values."""
    x = trial.exchange
    return {
        "request": {"method": trial.method, "target": trial.target},
        "runs": [
            {
                "plugin": run.plugin,
                "phase": run.phase,
                "seconds": run.seconds,
                "output": run.output,
                "error": None if run.error is None else own_traceback(run.error),
                "handlers": [hook.as_dict() for hook in run.handlers],
            }
            for run in trial.runs
        ],
        "calls": [
            {
                "plugin": call.plugin,
                "phase": call.phase,
                "method": _json(call.method),
                "args": _json(call.args),
                "result": _json(call.result),
                "error": call.error,
            }
            for call in x.calls
        ],
        "upstream": None
        if x.sent is None
        else {
            "method": x.sent.method,
            "target": x.sent.target.decode("latin-1"),
            "headers": list(_pairs(x.sent.headers)),
            "body": x.sent.body.decode("utf-8", "replace"),
        },
        "response": None
        if x.response is None
        else {
            "status": x.response.status,
            "headers": list(_pairs(x.response.headers)),
            "body": x.response.body.decode("utf-8", "replace"),
        },
        "log": [
            {"level": line.level, "plugin": line.plugin, "text": line.text.decode("utf-8", "replace")}
            for line in x.log
        ],
        "findings": [finding.as_dict() for finding in trial.findings],
        "seconds": trial.seconds,
        "ok": trial.ok,
    }


def _json(value: Any) -> Any:
    """Bytes that are no UTF-8 as they can be shown; keys as text."""
    shown = python(value)
    if isinstance(shown, str):
        return shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(shown, dict):
        return {str(_json(key)): _json(item) for key, item in shown.items()}
    if isinstance(shown, list):
        return [_json(item) for item in shown]
    return shown
