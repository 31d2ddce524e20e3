"""What went otherwise than a handler's author meant, in words for people who have not read Envoy's source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coprocess.desk.envoy.simulator import ServerCall
from coprocess.desk.findings import HookFinding, Severity
from coprocess.desk.hook_runs import HookRun, told
from coprocess.gateways.envoy import wire

if TYPE_CHECKING:
    from coprocess.desk.envoy.trial.trial import Trial


@dataclass(frozen=True, slots=True)
class Finding(HookFinding):
    """One thing to know about a trial. Without a hook it is about the whole request."""

    hook: HookRun | None = None


def find(trial: Trial) -> list[Finding]:
    """The errors first."""
    return sorted(_findings(trial), key=lambda finding: finding.severity.rank)


def _findings(trial: Trial) -> Iterator[Finding]:
    exchange = trial.exchange
    for run in (*trial.hooks, *trial.events):
        if run.failed:
            yield Finding(Severity.ERROR, "handler-failed", *told(run), run)
    if exchange.http_response.error:
        yield Finding(
            Severity.ERROR,
            "connection-ended",
            f"The client's connection: {exchange.http_response.error}.",
            "The client got no whole answer.",
            "See what the handlers and the upstream answer, and how bodies are sent to the service.",
        )
    for call in exchange.calls:
        yield from _of_call(call)
    if not exchange.calls:
        yield Finding(
            Severity.NOTE,
            "not-asked",
            "The service was not asked: no filter of this route has anything to send.",
            "No handler ran.",
            "See the route's filters, or print some: `coprocess envoy config`.",
        )
    if trial.upstream_error:
        yield Finding(
            Severity.ERROR,
            "upstream",
            f"The upstream could not be asked: {trial.upstream_error}.",
            "Envoy answered in its place.",
            "Start the upstream; without --upstream, a simulated one answers.",
        )


def _of_call(call: ServerCall) -> Iterator[Finding]:
    if call.refused_edits:
        yield Finding(
            Severity.WARNING,
            "edits-refused",
            f"{call.filter_name}: Envoy left out {call.refused_edits} edits of headers, without a word.",
            "The headers went on as they were.",
            "Allow the edits in the filter's mutation_rules, or leave them out: `coprocess envoy doctor`.",
        )
    for error in call.errors:
        yield Finding(
            Severity.WARNING,
            "call-failed",
            f"{call.filter_name}: {error}.",
            "The filter does what it is set to do where the service fails: it refuses, or lets pass.",
            "See the filter's failure_mode_allow, and what failed above.",
        )
    for reply in call.received:
        if isinstance(reply, wire.ProcessingResponse) and reply.immediate_response.details:
            yield Finding(
                Severity.NOTE,
                "details",
                f"{call.filter_name}: details for the access log: {reply.immediate_response.details}.",
                "The client does not see them.",
                "Look for them as %RESPONSE_CODE_DETAILS%.",
            )
