"""Keeps secrets out of what this service writes: log lines, error texts, the admin pages.

Three nets, each with its own holes: the values of keys that name a secret, in structured log entries;
what looks like a header or a field with a secret, in any text; and secrets that are known by value. What
a handler prints passes through the last two, so `print(request.headers)` is caught, but a bare token is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"

#: Headers whose value is a secret as a whole; it may hold spaces and commas.
_HEADERS = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-tyk-authorization",
    "x-amz-security-token",
)
#: Fields whose value is a secret: of sessions, of settings, of forms.
_FIELDS = (
    "access_token",
    "api_key",
    "client_secret",
    "hmac_secret",
    "hmac_string",
    "id_token",
    "oauth_keys",
    "passwd",
    "password",
    "private_key",
    "refresh_token",
    "secret",
    "secret_key",
    "sentinel_password",
)
_KEYS = frozenset(re.sub(r"[-_]", "", name) for name in (*_HEADERS, *_FIELDS))


def _any_of(names: tuple[str, ...]) -> str:
    # Longest first; `-` and `_` and nothing between words are one spelling: HTTP_X_API_KEY, HmacSecret.
    spelled = [re.sub(r"[-_]", "[-_]?", name) for name in sorted(names, key=len, reverse=True)]
    return "|".join(spelled)


# With the end missing too, where a line was cut; and as JSON within JSON has it.
_QUOTED = r'\\"(?:[^"\\\n]|\\[^"\n])*(?:\\"|$)|b?"(?:[^"\\\n]|\\.)*(?:"|$)|b?\'(?:[^\'\\\n]|\\.)*(?:\'|$)'
_LIST = r"[\[(]\s*(?:(?:%s)\s*,?\s*)+[\])]?" % _QUOTED  # noqa: UP031 - braces abound in patterns
# A name is followed by a mark, perhaps in quotes: `Authorization: x`, `"password": "x"`, `secret='x'`,
# `('Cookie', 'x')`.
_MARK = r"\\?[\"']?\s*(?:[:=]|,(?=\s*b?[\"']))\s*+(?!\[redacted)"
_PATTERNS = (
    # Text form of protobuf: key: "Authorization" value: "x".
    re.compile(rf"(?i)(\bkey:\s*\"(?:{_any_of(_HEADERS)})\",?\s*value:\s*)(?:{_QUOTED})"),
    re.compile(rf"(?i)((?<![a-z])(?:{_any_of(_HEADERS)}){_MARK})(?:{_LIST}|{_QUOTED}|(?![\[(\"'])[^\r\n]+)"),
    re.compile(rf"(?i)((?<![a-z])(?:{_any_of(_FIELDS)}){_MARK})(?:{_LIST}|{_QUOTED}|[^\s,;&\"'\])}}]+)"),
    # Credentials on their own; a digit or a mark among them tells them from a sentence.
    re.compile(r"(?i)(\bbearer\s+)(?=[a-z+/]*[0-9._~=-])[a-z0-9._~+/=-]{6,}"),
    re.compile(r"(\b[Bb]asic\s+)(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/]{6,}=*"),
    re.compile(r"((?<![a-z0-9])[a-z][a-z0-9+.-]{1,30}://)[^\s/@\"']*(?=@)"),
)

_known: set[str] = set()
#: So short a value is in many words that are no secret.
_SHORTEST_KNOWN = 6


def add_secret(value: str) -> None:
    """From now on, `value` is redacted wherever it shows, also percent-encoded."""
    if len(value) >= _SHORTEST_KNOWN:
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
        text = text.replace(secret, REDACTED)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{REDACTED}", text)
    return text


def redact_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The log processor. It comes after exceptions have become text."""
    return {key: _redact(key, value, 0) for key, value in event.items()}


def redact_value(name: str, value: Any) -> Any:
    """`value`, which stands under `name`, as a log line would have it."""
    return _redact(name, value, 0)


_DEEPEST = 6


def _redact(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, str) and key.lower().replace("-", "").replace("_", "") in _KEYS:
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= _DEEPEST:
        return redact_text(repr(value))
    if isinstance(value, Mapping):
        return {name: _redact(name, item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact(None, item, depth + 1) for item in value]
    # What a renderer would show of it.
    return redact_text(repr(value))
