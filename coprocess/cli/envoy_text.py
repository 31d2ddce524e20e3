"""A trial at the simulated Envoy, for people at a terminal and for machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from coprocess.bounded import repr_of
from coprocess.cli.output import body_as_json
from coprocess.cli.trial_text import TrialText as Base
from coprocess.cli.trial_text import from_here, status_text
from coprocess.desk.envoy.simulator.filter_config import BODY_MODES
from coprocess.desk.envoy.simulator.recording import as_json
from coprocess.gateways.envoy import wire

if TYPE_CHECKING:
    from coprocess.desk.envoy.simulator import ServerCall, UpstreamReply, UpstreamRequest
    from coprocess.desk.envoy.trial import HookRun, Trial


class TrialText(Base):
    """Writes trials as lines."""

    def report(self, trial: Trial) -> Iterator[str]:
        exchange = trial.exchange
        route = f", route {exchange.route_name}" if exchange.route_name else ""
        yield self._title(trial.method, trial.target, f"at Envoy, simulated{route}")
        for number, run in enumerate(trial.hooks, 1):
            yield ""
            yield from self._ran(f'{number}. {run.type} "{run.name}"', run)
        if not trial.hooks:
            yield ""
            yield self._dim("no handler was run")
        for call in exchange.calls:
            yield ""
            yield from self._call(call)
        for run in trial.events:
            yield ""
            yield from self._ran(f"event → {run.name}", run)
        yield ""
        yield from self._upstream(trial)
        yield ""
        yield from self._client(trial)
        yield from self._findings(trial.findings)

    def _ran(self, title: str, run: HookRun) -> Iterator[str]:
        failed = self._style("  failed", "red") if run.failed else ""
        yield (
            self._bold(title)
            + f"  {run.seconds * 1000:.1f} ms{failed}  {self._dim(from_here(run.source))}".rstrip()
        )
        yield from self._output(run.output)
        yield from self._traceback(run.traceback)

    def _call(self, call: ServerCall) -> Iterator[str]:
        yield self._bold(call.filter_name)
        lines = []
        for sent, received in zip_longest(call.sent, call.received):
            if sent is not None:
                lines.append(f"→ {sent_line(sent)}")
            if received is not None:
                parts = list(reply_parts(received))
                lines.append(f"← {parts[0]}")
                lines += [self._diff(part) if part[:1] in "+-" else part for part in parts[1:]]
        yield from self._folded(self._cut(lines), indent=5)

    def _upstream(self, trial: Trial) -> Iterator[str]:
        request, reply = trial.exchange.upstream_request, trial.exchange.upstream_reply
        if request is None:
            yield self._not_asked()
            return
        yield from self._asked(request.method, request.target, request.headers, request.body)
        if reply is not None:
            yield self._replied(reply.status, reply.body)

    def _client(self, trial: Trial) -> Iterator[str]:
        response = trial.exchange.http_response
        if response.status is None:
            yield self._got_nothing(f": {response.error}")
            return
        yield from self._got(response.status, response.headers, response.body, trial.seconds)


def sent_line(message: Message) -> str:
    """One message of Envoy's, in a few words."""
    if isinstance(message, wire.CheckRequest):
        return "check"
    assert isinstance(message, wire.ProcessingRequest)  # noqa: S101 - there are two services
    kind = message.WhichOneof("request") or ""
    part: Any = getattr(message, kind)
    about = []
    if kind.endswith("_headers"):
        about.append(f"{len(part.headers.headers)} headers")
    elif kind.endswith("_body"):
        about.append(f"{len(part.body)} bytes")
    if getattr(part, "end_of_stream", False):
        about.append("the end")
    words = ", ".join(about)
    return f"{kind.replace('_', ' ')} ({words})" if words else kind.replace("_", " ")


def reply_parts(reply: Message) -> Iterator[str]:
    """What a reply is, and then what it changes, a line each."""
    if isinstance(reply, wire.CheckResponse):
        yield from _check_parts(reply)
        return
    assert isinstance(reply, wire.ProcessingResponse)  # noqa: S101 - as above
    kind = reply.WhichOneof("response") or "nothing"
    if kind == "immediate_response":
        yield f"the answer: {status_text(reply.immediate_response.status.code)}"
        yield from _edits(reply.immediate_response.headers)
        return
    yield kind.replace("_", " ")
    part: Any = getattr(reply, kind, None)
    common = getattr(part, "response", part)
    if common is not None:
        yield from _edits(common.header_mutation)
        if kind.endswith(("_body", "_headers")):
            yield from _body_edit(common.body_mutation)
    override = reply.mode_override
    for direction in ("request", "response"):
        mode = BODY_MODES[getattr(override, f"{direction}_body_mode")]
        if mode != "NONE":
            yield f"asks for the {direction}'s body: {mode}"
    if reply.dynamic_metadata.fields:
        yield f"metadata: {repr_of(as_json(reply.dynamic_metadata), 200)}"


def _body_edit(mutation: wire.BodyMutation) -> Iterator[str]:
    kind = mutation.WhichOneof("mutation")
    if kind == "body":
        yield f"+ a body of {len(mutation.body)} bytes"
    elif kind == "streamed_response":
        yield f"+ {len(mutation.streamed_response.body)} bytes of the body"
    elif kind == "clear_body":
        yield "- the body"


def _edits(mutation: wire.HeaderMutation) -> Iterator[str]:
    for name in mutation.remove_headers:
        yield f"- {name}"
    for option in mutation.set_headers:
        yield f"+ {option.header.key}: {option.header.raw_value.decode('latin-1')}"


def _check_parts(reply: wire.CheckResponse) -> Iterator[str]:
    if reply.status.code == 0:
        yield "allowed"
        for name in reply.ok_response.headers_to_remove:
            yield f"- {name}"
        for option in reply.ok_response.headers:
            yield f"+ {option.header.key}: {option.header.value}"
    else:
        yield f"denied: {status_text(reply.denied_response.status.code)}"
        for option in reply.denied_response.headers:
            yield f"+ {option.header.key}: {option.header.value}"
    if reply.dynamic_metadata.fields:
        yield f"metadata: {repr_of(as_json(reply.dynamic_metadata), 200)}"


def trial_as_dict(trial: Trial) -> dict[str, Any]:
    """For `--json`: messages as protobuf's JSON."""
    exchange = trial.exchange
    return {
        "method": trial.method,
        "target": trial.target,
        "route": exchange.route_name or None,
        "hooks": [run.as_dict() for run in trial.hooks],
        "events": [run.as_dict() for run in trial.events],
        "calls": [
            {
                "service": call.service,
                "filter": call.filter_name,
                "sent": [as_json(message) for message in call.sent],
                "received": [as_json(message) for message in call.received],
                "refused_edits": call.refused_edits,
            }
            for call in exchange.calls
        ],
        "upstream_request": _request(exchange.upstream_request),
        "upstream_reply": _reply(exchange.upstream_reply),
        "http_response": {
            "status": exchange.http_response.status,
            "error": exchange.http_response.error,
            **_content(exchange.http_response.headers, exchange.http_response.body),
        },
        "metadata": exchange.dynamic_metadata,
        "findings": [finding.as_dict() for finding in trial.findings],
        "ok": trial.ok,
    }


def _request(request: UpstreamRequest | None) -> dict[str, Any] | None:
    if request is None:
        return None
    return {
        "method": request.method,
        "target": request.target,
        **_content(request.headers, request.body),
    }


def _reply(reply: UpstreamReply | None) -> dict[str, Any] | None:
    return None if reply is None else {"status": reply.status, **_content(reply.headers, reply.body)}


def _content(headers: Iterable[tuple[str, str]], body: bytes) -> dict[str, Any]:
    return {"headers": [list(pair) for pair in headers], **body_as_json(body)}
