"""Keeps secrets out of what this service writes: log lines, error texts, the admin pages.

Three nets, each with its own holes: the values of keys that name a secret, in structured log entries;
what looks like a header, field or parameter with a secret, or is a token by its form, in any text; and
secrets that are known by value. What a handler prints passes through the last two, so
`print(request.headers)` is caught, but a bare password is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from structlog.typing import EventDict, WrappedLogger

from coprocess.process.secret_names import SHORTEST_KNOWN, Sensitivity, counts, is_plausible, judge
from coprocess.process.secret_text import REDACTED, redact_formed, redact_named

_known: set[str] = set()


def add_secret(value: str) -> None:
    """From now on, `value` is redacted wherever it shows, also percent-encoded."""
    if len(value) >= SHORTEST_KNOWN:
        _known.update((value, quote(value, safe=""), repr(value)[1:-1]))


def add_url_secrets(url: str) -> None:
    """As `add_secret`, for the password in a URL; a URL that cannot be read has none."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return
    if password:
        add_secret(unquote(password))


def redact_text(text: str) -> str:
    """`text` without what is, or looks like, a secret."""
    for secret in _known:
        if secret in text:
            text = _replace_known(secret, text)
    return redact_formed(redact_named(text))


def _replace_known(secret: str, text: str) -> str:
    if not (secret.isalpha() and secret.islower()):
        return text.replace(secret, REDACTED)
    # A word: it may be a part of others, which are no secrets.
    return re.sub(rf"(?<![A-Za-z]){secret}(?![A-Za-z])", REDACTED, text)


def redact_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The log processor. It comes after exceptions have become text."""
    return {key: _redact(key, value, 0) for key, value in event.items()}


def redact_value(name: str, value: Any) -> Any:
    """`value`, which stands under `name`, as a log line would have it."""
    return _redact(name, value, 0)


_DEEPEST = 6


def _redact(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    if isinstance(key, str) and _is_secret(key, value):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= _DEEPEST:
        return redact_text(repr(value))
    if isinstance(value, Mapping):
        return {_shown_name(name): _redact(name, item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str | bytes):
        # A pair, as headers often are.
        return [_redact(None, value[0], depth + 1), _redact(value[0], value[1], depth + 1)]
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact(None, item, depth + 1) for item in value]
    # What a renderer would show of it.
    return redact_text(repr(value))


def _shown_name(name: object) -> object:
    # JSON takes no others, and the entry would be lost.
    if name is None or isinstance(name, bool | int | float):
        return name
    return redact_text(name if isinstance(name, str) else repr(name))


def _is_secret(name: str, value: Any) -> bool:
    sensitivity = judge(name)
    if sensitivity is Sensitivity.HARMLESS or value is None or isinstance(value, bool):
        return False
    if sensitivity is Sensitivity.DOUBTFUL:
        return isinstance(value, str) and is_plausible(value)
    return not (isinstance(value, int | float) and counts(name))
