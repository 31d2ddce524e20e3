"""What went otherwise than a plugin's author meant, in words for people who have not read Kong's source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coprocess.bounded import repr_of
from coprocess.desk import findings
from coprocess.desk.findings import Severity
from coprocess.desk.hook_runs import HookRun, told
from coprocess.desk.kong.simulator.exchange import Incident, PdkCall
from coprocess.desk.kong.simulator.lua import python
from coprocess.desk.tracebacks import raised_at

if TYPE_CHECKING:
    from coprocess.desk.kong.trial.trial import Trial


@dataclass(frozen=True, slots=True)
class Finding(findings.Finding):
    """One thing to know about a trial. Without a plugin it is about the whole request."""

    plugin: str = ""
    phase: str = ""
    #: The native handler that it is about.
    hook: HookRun | None = None

    @property
    def about(self) -> str:
        if self.hook is not None:
            return f'{self.hook.type} "{self.hook.name}"'
        return " ".join(filter(None, (self.plugin, self.phase)))

    @property
    def source(self) -> str:
        return str(self.hook.source) if self.hook is not None and self.hook.source else ""

    @property
    def place(self) -> dict[str, Any]:
        place = {"plugin": self.plugin, "phase": self.phase}
        if self.hook is not None:
            place |= {"hook_type": self.hook.type, "hook": self.hook.name, "source": self.source}
        return place


def find(trial: Trial) -> list[Finding]:
    """The errors first."""
    found = [
        *_of_handlers(trial),
        *_of_runs(trial),
        *_of_incidents(trial),
        *_of_calls(trial),
        *_of_the_way(trial),
    ]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity.rank)


def _of_handlers(trial: Trial) -> Iterator[Finding]:
    for run in trial.runs:
        for hook in run.handlers:
            if hook.failed:
                yield Finding(Severity.ERROR, "handler-failed", *told(hook), run.plugin, run.phase, hook)


def _of_runs(trial: Trial) -> Iterator[Finding]:
    for run in trial.runs:
        if run.error is None:
            continue
        place = raised_at(run.error)
        where = "__init__" if run.phase == "start" else run.phase
        effect = {
            "start": "No instance of the plugin starts: Kong answers 500, and tries anew with each request.",
            "log": "The rest of this log phase does not run; the client has its answer already.",
        }.get(run.phase, "The request is refused, so that nobody goes round the plugin.")
        yield Finding(
            Severity.ERROR,
            "plugin-raised",
            f"{where} raised {type(run.error).__name__}: {repr_of(str(run.error), 200)}",
            effect,
            f"Mend it at {place}." if place else "Mend it; the traceback is above.",
            run.plugin,
            run.phase,
        )


def _of_incidents(trial: Trial) -> Iterator[Finding]:
    raised = {(run.plugin, run.phase) for run in trial.runs if run.error is not None}
    starts = {run.plugin for run in trial.runs if run.error is not None and run.phase == "start"}
    for incident in trial.exchange.incidents:
        if (incident.plugin, incident.phase) in raised or incident.plugin in starts:
            continue
        yield _of_incident(incident, [call for call in trial.exchange.calls if call.error == incident.text])


def _of_incident(incident: Incident, calls: list[PdkCall]) -> Finding:
    place = (incident.plugin, incident.phase)
    if incident.kind == "open":
        return Finding(
            Severity.ERROR,
            "fail-open",
            f"the plugin server did not do its part: {incident.text}",
            "Kong lets the request go on without the plugin.",
            "A guard must answer with kong.response.exit, and its server must be there.",
            *place,
        )
    if incident.kind == "lost":
        return Finding(
            Severity.WARNING,
            "event-lost",
            incident.text,
            "The code after the call never runs.",
            "Do not rely on code after a call that waits for the client.",
            *place,
        )
    effect = {
        "log": "The rest of this log phase does not run; the client has its answer already.",
        "certificate": "The TLS handshake fails.",
    }.get(incident.phase, "Kong answers 500, and the code after the call never runs.")
    what = f"{_shown(calls[0])} raised in Kong" if calls else "Kong raised an error"
    return Finding(
        Severity.ERROR,
        "pdk-raised" if calls else "kong-error",
        f"{what}: {incident.text}",
        effect,
        _remedy(incident, calls),
        *place,
    )


def _remedy(incident: Incident, calls: list[PdkCall]) -> str:
    if "only in:" in incident.text:
        return "Call it in one of the phases that the message names."
    if "API disabled" in incident.text:
        return "In log, read it in an earlier phase and keep it with kong.ctx.shared.set."
    if "in a file" in incident.text:
        return "Pass how many bytes may be read: kong.request.get_raw_body(0) reads them all."
    if calls:
        return "Pass what the PDK's reference says for this call."
    return "See the message: it is Kong's own."


def _of_calls(trial: Trial) -> Iterator[Finding]:
    for call in trial.exchange.calls:
        method = python(call.method)
        place = (call.plugin, call.phase)
        if call.error == "there is no such method":
            yield Finding(
                Severity.ERROR,
                "unknown-method",
                f"{method} is no function of the PDK",
                "Kong logs an error, and the call gives nil.",
                "Look its name up in the PDK's reference.",
                *place,
            )
        args = call.args if isinstance(call.args, dict) else {}
        if method == "kong.response.exit" and 2 not in args and 3 in args:
            yield Finding(
                Severity.WARNING,
                "exit-loses-headers",
                "kong.response.exit with None as body loses the headers that come after it",
                "Lua's argument list ends at nil: the client gets no header of yours, and Kong's own page.",
                'Pass "" as body.',
                *place,
            )
        if method == "kong.response.set_status" and call.phase in ("rewrite", "access"):
            yield Finding(
                Severity.WARNING,
                "status-not-kept",
                f"kong.response.set_status in {call.phase} has no effect on what the service answers",
                "The client gets the service's status.",
                "Set it in the response phase, or end the request with kong.response.exit.",
                *place,
            )
        yield from _lost_headers(call, method, args)


def _lost_headers(call: PdkCall, method: Any, args: dict[Any, Any]) -> Iterator[Finding]:
    if method not in ("kong.response.set_headers", "kong.service.request.set_headers") or call.error:
        return
    headers = args.get(1)
    for name, value in headers.items() if isinstance(headers, dict) else ():
        if isinstance(value, dict) and not any(isinstance(key, int) for key in value):
            yield Finding(
                Severity.WARNING,
                "header-lost",
                f"header {python(name)} is given a map",
                "Kong sets nothing, and says nothing.",
                "Give text, a number, a bool or a list of text.",
                call.plugin,
                call.phase,
            )


def _of_the_way(trial: Trial) -> Iterator[Finding]:
    x = trial.exchange
    if x.handshake_error is not None:
        yield Finding(
            Severity.ERROR,
            "handshake-failed",
            f"the TLS handshake failed: {x.handshake_error}",
            "The client is not connected, and gets no answer.",
            "See what the certificate phase calls.",
        )
        return
    if x.match is None and x.response is not None and x.response.status == 404 and not x.calls:
        yield Finding(
            Severity.NOTE,
            "no-route",
            "no route matches the request",
            "Kong answers 404; only rewrite and log of global plugins run.",
            "See the routes' paths and hosts.",
        )
    for entity in x.kong.entities.plugins:
        info = entity.info
        if info is None:
            continue
        if not info.phases:
            yield Finding(
                Severity.WARNING,
                "never-runs",
                "the plugin has no phase",
                "Kong never runs it.",
                "Give the class a method named access, or another phase.",
                entity.name,
            )
        is_global = entity.route is None and entity.service is None and entity.consumer is None
        for phase in ("rewrite", "certificate"):
            if phase in info.phases and not is_global:
                yield Finding(
                    Severity.WARNING,
                    "phase-never-runs",
                    f"{phase} does not run, as the plugin is put on a part only",
                    f"In {phase}, Kong does not know the route yet.",
                    "Put the plugin on everything (global), or do it in access.",
                    entity.name,
                    phase,
                )


def _shown(call: PdkCall) -> str:
    args = call.args if isinstance(call.args, dict) else {1: call.args}
    values = (python(args.get(index)) for index in range(1, max(args, default=0) + 1))
    return f"{python(call.method)}({', '.join(repr_of(value, 60) for value in values)})"
