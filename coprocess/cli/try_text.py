"""A trial for people at a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial import EventTrial, Finding, HookTrial, Trial

_MOST_LINES = 12
_LONGEST_LINE = 160
_WIDTH = 100
_MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "note": ("i", "cyan")}
_ABOUT_THE_REQUEST = {"error": "the request failed", "warning": "mind", "note": "to know"}


class TrialText:
    """Writes trials as lines. `full` folds nothing."""

    def __init__(self, *, colour: bool, full: bool) -> None:
        self._colour = colour
        self._full = full

    def lines(self, trial: Trial, upstream_name: str) -> Iterator[str]:
        yield self._bold(f"{trial.method} {trial.target}") + self._dim(
            f"  at API {trial.definition.name or trial.definition.api_id}"
        )
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
        for finding in trial.findings:
            yield ""
            yield from self._finding(finding)

    def _hook(self, number: int, hook: HookTrial) -> Iterator[str]:
        failed = self._style(f"  {hook.status}", "red") if hook.status != "OK" else ""
        title = self._bold(f'{number}. {hook.type} "{hook.name}"')
        yield f"{title}  {hook.seconds * 1000:.1f} ms{failed}  {self._dim(_place(hook.source))}".rstrip()
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
        yield f"{title}  {event.seconds * 1000:.1f} ms{failed}  {self._dim(_place(event.source))}".rstrip()
        yield from self._output(event.output)
        if event.raised is not None:
            yield from self._traceback(event.traceback)

    def _upstream(self, trial: Trial, name: str) -> Iterator[str]:
        request = trial.exchange.upstream_request
        if request is None:
            yield self._bold("upstream") + "  was not asked"
            return
        yield self._bold("upstream") + f"  {request.method} {request.url}  {self._dim(f'({name})')}"
        yield from self._headers(request.headers)
        yield from self._body(request.body)
        reply = trial.exchange.upstream_reply
        if reply is not None:
            yield f"     answered {status_text(reply.status)}, {len(reply.body)} bytes"

    def _client(self, trial: Trial) -> Iterator[str]:
        response = trial.exchange.http_response
        if response is None:
            yield self._bold("client gets ") + self._style("no answer: the connection is dropped", "red")
            return
        colour = "green" if response.status < 400 else "yellow" if response.status < 500 else "red"
        took = self._dim(f"  {trial.seconds * 1000:.1f} ms in all")
        yield self._bold("client gets ") + self._style(status_text(response.status), colour) + took
        yield from self._headers(response.headers)
        yield from self._body(response.body)

    def _finding(self, finding: Finding) -> Iterator[str]:
        mark, colour = _MARKS[finding.severity]
        hook = finding.hook
        title = f'{hook.type} "{hook.name}"' if hook else _ABOUT_THE_REQUEST[finding.severity]
        place = self._dim(f"  {_place(hook.source)}") if hook and hook.source else ""
        yield self._style(f"{mark} {title}", colour) + place
        yield from wrapped(finding.problem, "  ", "  ")
        yield from wrapped(finding.effect, "  ", "  ")
        yield from wrapped(finding.remedy, "  → ", "    ")

    # Parts

    def _output(self, output: list[str]) -> Iterator[str]:
        yield from self._folded([self._dim(f"| {line}") for line in self._cut(output)], indent=5)

    def _traceback(self, lines: Iterable[str]) -> Iterator[str]:
        base = f'File "{Path.cwd()}/'
        short = [line.replace(base, 'File "') for line in lines]
        # The end tells most.
        hidden = 0 if self._full else max(len(short) - 2 * _MOST_LINES, 0)
        if hidden:
            yield self._dim(f"     … {hidden} more lines: --full")
        for line in short[hidden:]:
            yield f"     {self._style(line, 'red')}"

    def _headers(self, headers: Iterable[tuple[str, str]]) -> Iterator[str]:
        lines = [f"{name}: {value}" for name, value in headers]
        yield from self._folded(self._cut(lines), indent=5)

    def _body(self, body: bytes) -> Iterator[str]:
        if not body:
            return
        try:
            text = body.decode()
        except UnicodeDecodeError:
            yield f"     ({len(body)} bytes that are not UTF-8)"
            return
        lines = [
            "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in s) for s in text.split("\n")
        ]
        yield ""
        yield from self._folded(self._cut(lines), indent=5)

    def _cut(self, lines: list[str]) -> list[str]:
        if self._full:
            return lines
        return [
            line
            if len(line) <= _LONGEST_LINE
            else f"{line[:_LONGEST_LINE]}… ({len(line)} characters: --full)"
            for line in lines
        ]

    def _folded(self, lines: list[str], *, indent: int) -> Iterator[str]:
        space = " " * indent
        # Hiding a single line would take a line to say so.
        shown = len(lines) if self._full or len(lines) <= _MOST_LINES + 1 else _MOST_LINES
        for line in lines[:shown]:
            yield f"{space}{line}".rstrip()
        if shown < len(lines):
            yield space + self._dim(f"… {len(lines) - shown} more lines: --full")

    def _diff(self, line: str) -> str:
        return self._style(line, "green" if line.startswith("+") else "red")

    def _style(self, text: str, colour: str) -> str:
        return typer.style(text, fg=colour) if self._colour else text

    def _bold(self, text: str) -> str:
        return typer.style(text, bold=True) if self._colour else text

    def _dim(self, text: str) -> str:
        return typer.style(text, dim=True) if self._colour and text else text


def wrapped(text: str, first: str, rest: str) -> list[str]:
    """Lines of at most a terminal's width; paths are shown from the working directory."""
    return textwrap.wrap(
        text.replace(f"{Path.cwd()}/", ""),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _place(source: object) -> str:
    return str(source).removeprefix(f"{Path.cwd()}/") if source else ""


def status_text(status: int) -> str:
    """`404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def dumped(content: object) -> str:
    """JSON, as the commands of this package print it."""
    return json.dumps(content, indent=2, ensure_ascii=False)
