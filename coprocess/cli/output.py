"""What commands print: names, texts and answers of others, which no terminal must obey."""

from __future__ import annotations

import base64
import json
import sys

import typer

from coprocess.streams import StandIn
from coprocess.text import terminal_text


class _Harmless(StandIn):
    def write(self, text: str) -> int:
        self._original.write(terminal_text(text))
        return len(text)


def make_output_harmless() -> None:
    """From now on, escape what a terminal would obey, in all that this process prints."""
    sys.stdout, sys.stderr = _Harmless(sys.stdout), _Harmless(sys.stderr)


def print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def body_as_json(body: bytes) -> dict[str, str | None]:
    """As text or, where it is none, in base64."""
    try:
        return {"body": body.decode(), "body_base64": None}
    except UnicodeDecodeError:
        return {"body": None, "body_base64": base64.b64encode(body).decode()}
