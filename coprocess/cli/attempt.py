"""What `try` is at every gateway: the options, the request that is asked for, running it again and again."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from coprocess.api.http import is_token
from coprocess.cli.output import print_json
from coprocess.errors import ConfigError, CoprocessError
from coprocess.text import indented

if TYPE_CHECKING:
    from coprocess.desk.upstreams import Upstream

Headers = Annotated[
    list[str] | None,
    typer.Option("--header", "-H", metavar="NAME: VALUE", help="Header of the request. Repeatable."),
]
Data = Annotated[
    str | None, typer.Option("--data", "-d", metavar="BODY", help="Body of the request; @FILE reads it.")
]
UpstreamUrl = Annotated[
    str | None,
    typer.Option(
        "--upstream",
        metavar="URL|STATUS",
        help="Service to ask, or status of a simulated one. Default: a simulated one answers 200.",
    ),
]
UpstreamBody = Annotated[
    str | None, typer.Option("--upstream-body", metavar="BODY", help="Body of the simulated upstream.")
]
Redis = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Store. Default: a temporary one, empty at the start."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Watch = Annotated[bool, typer.Option("--watch", help="Run again when a file changes.")]
Full = Annotated[bool, typer.Option("--full", help="Fold nothing.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """The request, and what answers it. Files that it names are read when they are asked for."""

    method: str
    #: Path and query.
    target: str
    #: One character a byte, as headers travel.
    headers: list[tuple[str, str]]
    data: str | None
    upstream_url: str | None
    upstream_body: str | None

    @classmethod
    def of(
        cls,
        method: str,
        path: str,
        headers: list[str] | None,
        data: str | None,
        upstream_url: str | None,
        upstream_body: str | None,
    ) -> Asked:
        """Of a URL that was pasted whole, the host is a header. Raises ConfigError."""
        target, host = _request_target(path)
        pairs = [request_header(line) for line in headers or []]
        expect_request_line(method, target)
        if host and not any(name.lower() == "host" for name, _ in pairs):
            pairs.append(("Host", host))
        return cls(method.upper(), target, pairs, data, upstream_url, upstream_body)

    @property
    def host(self) -> str:
        """Empty where none is named."""
        return next((value for name, value in self.headers if name.lower() == "host"), "")

    @property
    def body(self) -> bytes:
        return given_bytes("--data", self.data or "")

    @property
    def has_real_upstream(self) -> bool:
        return self.upstream_url is not None and not self.upstream_url.isdecimal()

    def upstream(self) -> Upstream:
        """The service, or what simulates it. Raises ConfigError."""
        from coprocess.desk.as_upstream import DEFAULT_REPLY, as_upstream
        from coprocess.desk.upstreams import CannedUpstream

        if self.has_real_upstream:
            if self.upstream_body is not None:
                raise ConfigError(
                    "--upstream-body is for a simulated upstream, and --upstream names a real one"
                )
            return as_upstream(self.upstream_url)
        status = int(self.upstream_url or 200)
        if not 200 <= status <= 999:
            raise ConfigError(f"--upstream {status}: expected a URL, or a status from 200 to 999")
        if self.upstream_body is None:
            return as_upstream(status)
        return CannedUpstream(status, DEFAULT_REPLY.headers, _bytes_of(self.upstream_body))


@dataclass(frozen=True, slots=True)
class Attempt(ABC):
    """What was asked for; each `run` reads the files anew."""

    asked: Asked
    as_json: bool
    full: bool

    @abstractmethod
    def run(self) -> bool:
        """Whether the client got an answer below 500 and nothing failed."""

    @abstractmethod
    def watched(self) -> tuple[Iterable[Path], Iterable[Path]]:
        """The folders of code and the files to run again for, beside those of the request."""

    def show(self, as_dict: Callable[[], object], lines: Callable[[], Iterable[str]]) -> None:
        """Print a trial, in the form that was asked for."""
        if self.as_json:
            print_json(as_dict())
            return
        for line in lines():
            typer.echo(line, color=True)

    def go(self, *, watch: bool) -> None:
        """Run, or with `watch` run now and after each change, until Ctrl-C.

        Ends the command with exit status 1 where the last run failed.
        """
        if not (self._watch() if watch else self.run()):
            raise typer.Exit(1)

    def _watch(self) -> bool:
        from coprocess.cli.watch import run_watched

        folders, files = self.watched()
        return run_watched(
            self.run, folders=folders, files=[*files, *named_files(self.asked.data)], rule=not self.as_json
        )


@contextmanager
def store_of_attempt(url: str | None) -> Iterator[None]:
    """The handlers' store. Where this platform has no embedded one, they do without, and are told."""
    from coprocess.desk.store import trial_store

    with ExitStack() as stack:
        try:
            stack.enter_context(trial_store(url))
        except CoprocessError as error:
            if url is not None:
                raise
            typer.echo(f"no store: {error}", err=True)
        yield


def tell_not_loaded(problems: Iterable[object]) -> None:
    for problem in problems:
        typer.echo(f"not loaded: {indented(str(problem))}", err=True)


def has_colour() -> bool:
    """Whether the terminal shows colours, and is not asked to do without."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def given_bytes(option: str, given: str) -> bytes:
    """What an option says, or the file that it names by `@FILE`. Raises ConfigError."""
    if not given.startswith("@"):
        return _bytes_of(given)
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {given}: cannot be read: {error.strerror}") from None


def named_files(*given: str | None) -> list[Path]:
    """The files that options name by `@FILE`."""
    return [Path(text[1:]) for text in given if text and text.startswith("@")]


def _request_target(path: str) -> tuple[str, str]:
    """Path and query, and the host of a URL that was pasted whole."""
    if "://" in path:
        try:
            parts = urlsplit(path)
        except ValueError as error:
            raise ConfigError(f"{path!r} is no URL: {error}") from None
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), parts.netloc
    if not path.startswith("/"):
        raise ConfigError(f"{path!r} is no path: it begins with a slash")
    return path, ""


def _bytes_of(text: str) -> bytes:
    """What was typed: a terminal's bytes need not be text."""
    return text.encode("utf-8", "surrogateescape")


def expect_request_line(method: str, target: str) -> None:
    """Raises ConfigError for what no client sends, and every gateway refuses before its hooks."""
    if not is_token(method):
        raise ConfigError(f"{method!r} is no method. Expected: GET, POST or another word of HTTP")
    if any(each <= " " or each == "\x7f" for each in target):
        raise ConfigError(
            f"{target!r} is no path: it has a blank or a control character. Expected: %20 and the like"
        )


def request_header(line: str) -> tuple[str, str]:
    """`NAME: VALUE`. Raises ConfigError for what is no header of HTTP."""
    name, colon, value = line.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name:
        raise ConfigError(f"--header {line!r}: expected NAME: VALUE")
    if not is_token(name):
        raise ConfigError(f"--header {line!r}: {name!r} is no name of a header")
    if any(each in value for each in "\r\n\0"):
        raise ConfigError(f"--header {line!r}: a value has no line breaks and no null characters")
    return name, _bytes_of(value).decode("latin-1")
