"""A trial for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coprocess.cli.trial_text import TrialText as Base
from coprocess.cli.trial_text import from_here

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial import EventTrial, HookTrial, Trial


class TrialText(Base):
    """Writes trials as lines."""

    def lines(self, trial: Trial, upstream_name: str) -> Iterator[str]:
        api = trial.definition.name or trial.definition.api_id
        yield self._title(trial.method, trial.target, f"at API {api}")
        events = list(trial.events)
        for number, hook in enumerate(trial.hooks, 1):
            yield ""
            yield from self._hook(number, hook)
        if not trial.hooks:
            yield ""
            yield self._dim("no hook was called")
        for event in events:
            yield ""
            yield from self._event(event)
        yield ""
        yield from self._upstream(trial, upstream_name)
        yield ""
        yield from self._client(trial)
        yield from self._findings(trial.findings)

    def _hook(self, number: int, hook: HookTrial) -> Iterator[str]:
        failed = self._style(f"  {hook.status}", "red") if hook.status != "OK" else ""
        title = self._bold(f'{number}. {hook.type} "{hook.name}"')
        yield f"{title}  {hook.seconds * 1000:.1f} ms{failed}  {self._dim(from_here(hook.source))}".rstrip()
        yield from self._output(hook.output)
        if hook.failed:
            # An error without a traceback is told of at the end.
            yield from self._traceback(hook.traceback)
            if hook.call.error is not None:
                return
        lines = [line for edit in hook.edits for line in edit.lines()]
        lines += [f"{line}  (ignored)" for edit in hook.ignored_edits for line in edit.lines()]
        if not lines:
            yield self._dim("     changed nothing")
        yield from self._folded([self._diff(line) for line in self._cut(lines)], indent=5)

    def _event(self, event: EventTrial) -> Iterator[str]:
        origin = "triggered" if event.is_local else "event"
        failed = "" if event.ran else self._style("  failed", "red")
        title = self._bold(f"{origin} {event.type} → {event.handler}")
        yield f"{title}  {event.seconds * 1000:.1f} ms{failed}  {self._dim(from_here(event.source))}".rstrip()
        yield from self._output(event.output)
        if event.raised is not None:
            yield from self._traceback(event.traceback)

    def _upstream(self, trial: Trial, name: str) -> Iterator[str]:
        request, reply = trial.exchange.upstream_request, trial.exchange.upstream_reply
        if request is None:
            yield self._not_asked()
            return
        yield from self._asked(request.method, request.url, request.headers, request.body, name)
        if reply is not None:
            yield self._replied(reply.status, reply.body)

    def _client(self, trial: Trial) -> Iterator[str]:
        response = trial.exchange.http_response
        if response is None:
            yield self._got_nothing(": the connection is dropped")
            return
        yield from self._got(response.status, response.headers, response.body, trial.seconds)
