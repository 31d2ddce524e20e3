"""A JSON file whose values know their line: every complaint can say where."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.json_files import parse_json, read_text
from coprocess.desk.tyk.doctor.rules import RULES
from coprocess.desk.tyk.fields import Field
from coprocess.errors import ConfigError

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON file that could be read."""

    path: Path
    value: Any
    text: str = ""
    _offsets: dict[str, int] = field(default_factory=dict)

    @property
    def root(self) -> Field:
        """The whole, as fields that name their place (`custom_middleware.pre[0]`)."""
        return Field(self.value, str(self.path))

    def position(self, json_path: str) -> tuple[int, int]:
        """Line and column, from 1 on, of the value there; of what is missing, those of its parent."""
        while json_path not in self._offsets and json_path:
            cut = max(json_path.rfind("."), json_path.rfind("["))
            json_path = json_path[: max(cut, 0)]
        offset = self._offsets.get(json_path, 0)
        line_start = self.text.rfind("\n", 0, offset) + 1
        return self.text.count("\n", 0, offset) + 1, offset - line_start + 1

    def finding(
        self, severity: Severity, rule: str, json_path: str, problem: str, effect: str, remedy: str
    ) -> FileFinding:
        line, column = self.position(json_path) if self.text else (0, 0)
        return RULES.finding(severity, rule, self.path, json_path, problem, effect, remedy, line, column)

    def malformed(self, error: ConfigError, effect: str) -> FileFinding:
        """The finding for a field that is not of the kind it should be."""
        _, _, rest = str(error).partition(f"{self.path}: ")
        json_path, _, problem = rest.partition(": ")
        return self.finding(
            Severity.ERROR,
            "json-broken",
            "" if json_path == "the document" else json_path,
            f"{json_path} {problem}.",
            effect,
            "Give it the form that the gateway's documentation shows.",
        )


def parse_document(path: Path, text: str, effect: str) -> Document | FileFinding:
    """The document, or the finding that says where it is broken. `effect`: what that would lead to."""
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        return RULES.finding(
            Severity.ERROR,
            "json-broken",
            path,
            "",
            f"Not JSON: {error.msg}, in line {error.lineno}, column {error.colno}.",
            effect,
            "Mend the JSON there: look for a missing comma, quote or bracket, or a comma too many.",
            error.lineno,
            error.colno,
        )
    except ValueError as error:
        return _unreadable(path, str(error), effect)
    offsets: dict[str, int] = {}
    _locate(text, _skip(text, 0), "", offsets)
    return Document(path, value, text, offsets)


def read_document(path: Path, effect: str) -> Document | FileFinding:
    """As `parse_document`, for the file itself."""
    try:
        # Editors on Windows write a byte order mark; Go's parser refuses one, as `json` does.
        return parse_document(path, read_text(path), effect)
    except ConfigError as error:
        return _unreadable(path, str(error).removeprefix(f"{path}: "), effect)


def _unreadable(path: Path, reason: str, effect: str) -> FileFinding:
    remedy = "See that the file is there, can be read, and is UTF-8."
    return RULES.finding(
        Severity.ERROR, "json-broken", path, "", f"The file cannot be read: {reason}.", effect, remedy
    )


def _skip(text: str, offset: int) -> int:
    found = _SPACE.match(text, offset)
    return found.end() if found else offset


def _string(text: str, offset: int) -> tuple[str, int]:
    """The string that begins there, and where it ends."""
    value, end = _DECODER.raw_decode(text, offset)
    return str(value), end


def _locate(text: str, offset: int, path: str, offsets: dict[str, int]) -> int:
    """Note where each value below `path` begins; give where this one ends. `text` is valid JSON."""
    offsets[path] = offset
    if text[offset] == '"':
        return _string(text, offset)[1]
    if text[offset] not in "{[":
        found = _SCALAR.match(text, offset)
        return found.end() if found else offset
    is_object = text[offset] == "{"
    offset = _skip(text, offset + 1)
    index = 0
    while text[offset] not in "}]":
        if is_object:
            key, offset = _string(text, offset)
            offset = _skip(text, _skip(text, offset) + 1)
            below = f"{path}.{key}" if path else key
        else:
            below = f"{path}[{index}]"
            index += 1
        offset = _skip(text, _locate(text, offset, below, offsets))
        if text[offset] == ",":
            offset = _skip(text, offset + 1)
    return offset + 1
