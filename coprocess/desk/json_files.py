"""JSON files of other people: whatever is wrong with one is told in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from coprocess.errors import ConfigError

#: Definitions and manifests have kilobytes; a recording has some bodies in it.
MAX_BYTES = 64 * 2**20
#: What reads the document, or prints a part of it, recurses.
MAX_DEPTH = 100


def read_text(path: Path) -> str:
    """The text of a file. Raises ConfigError where there is none that can be read in bounded time."""
    try:
        # A pipe or a device may never end.
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise ConfigError(f"{path}: cannot be read: it is {kind}. Expected: a file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character.
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: has more than {MAX_BYTES // 2**20} MiB, which no such file needs")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8, from byte {error.start} on") from None


def parse_json(text: str) -> Any:
    """The value, as the gateway would read it. Raises ValueError, JSONDecodeError where it is no JSON."""
    # As Go's parser: a byte order mark and NaN are errors.
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check(value)
    return value


def read_json(path: Path) -> Any:
    """The value of a file. Raises ConfigError naming the file, the line and what is wrong there."""
    text = read_text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON that can be used: {error}") from None


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check(value: Any) -> None:
    waiting = [(value, 1)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, (dict, list)):
            if depth > MAX_DEPTH:
                raise ValueError(_TOO_DEEP)
            items = [*part, *part.values()] if isinstance(part, dict) else part
            waiting += [(item, depth + 1) for item in items]
        elif isinstance(part, str) and not part.isascii():
            try:
                part.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"\\u{ord(part[error.start]):04x} is half a character") from None
