"""What trials at every simulated gateway print alike, for people at a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from coprocess.desk.findings import Finding

_MOST_LINES = 12
_LONGEST_LINE = 160
_WIDTH = 100
_MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "note": ("i", "cyan")}
_ABOUT_THE_REQUEST = {"error": "the request failed", "warning": "mind", "note": "to know"}


class TrialText:
    """The parts of a trial as lines. `full` folds nothing."""

    def __init__(self, *, colour: bool, full: bool) -> None:
        self._colour = colour
        self._full = full

    def _title(self, method: str, target: str, where: str) -> str:
        return self._bold(f"{method} {target}") + self._dim(f"  {where}")

    def _asked(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes, name: str = ""
    ) -> Iterator[str]:
        """What was sent to the upstream."""
        where = f"  {self._dim(f'({name})')}" if name else ""
        yield self._bold("upstream") + f"  {method} {target}{where}"
        yield from self._headers(headers)
        yield from self._body(body)

    def _not_asked(self) -> str:
        return self._bold("upstream") + "  was not asked"

    def _replied(self, status: int, body: bytes) -> str:
        return f"     answered {status_text(status)}, {len(body)} bytes"

    def _got(
        self, status: int, headers: Iterable[tuple[str, str]], body: bytes, seconds: float
    ) -> Iterator[str]:
        """What the client got."""
        colour = "green" if status < 400 else "yellow" if status < 500 else "red"
        took = self._dim(f"  {seconds * 1000:.1f} ms in all")
        yield self._bold("client gets ") + self._style(status_text(status), colour) + took
        yield from self._headers(headers)
        yield from self._body(body)

    def _got_nothing(self, why: str) -> str:
        return self._bold("client gets ") + self._style(f"no answer{why}", "red")

    def _findings(self, findings: Iterable[Finding]) -> Iterator[str]:
        for finding in findings:
            mark, colour = _MARKS[finding.severity]
            title = finding.about or _ABOUT_THE_REQUEST[finding.severity]
            place = self._dim(f"  {from_here(finding.source)}") if finding.source else ""
            yield ""
            yield self._style(f"{mark} {title}", colour) + place
            yield from wrapped(finding.problem, "  ", "  ")
            yield from wrapped(finding.effect, "  ", "  ")
            yield from wrapped(finding.remedy, "  → ", "    ")

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


def from_here(place: object) -> str:
    """A path, shown from the working directory; empty for None."""
    return str(place).removeprefix(f"{Path.cwd()}/") if place else ""


def status_text(status: int) -> str:
    """`404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
