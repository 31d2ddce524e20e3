"""`HeaderMutationRules`: which header edits of a server Envoy takes."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_ROUTING = frozenset({"host", ":authority", ":scheme", ":method"})
_SCHEMES = frozenset({"http", "https"})
_AUTHORITY = re.compile(r"[A-Za-z0-9!$%&'()*+,\-.:;=@\[\]_~]*")


class Verdict(enum.Enum):
    TAKEN = "taken"
    #: Left out, without a word.
    IGNORED = "ignored"
    #: The whole reply is an error.
    FAILS = "fails"


@dataclass(frozen=True, slots=True)
class MutationRules:
    allow_all_routing: bool = False
    allow_envoy: bool = False
    disallow_system: bool = False
    disallow_all: bool = False
    allow_expression: re.Pattern[str] | None = None
    disallow_expression: re.Pattern[str] | None = None
    disallow_is_error: bool = False

    def judge_set(self, name: str, value: str, *, is_appended: bool = False) -> Verdict:
        """`is_appended`: to a value that is there; what there is one of takes no second."""
        name = name.lower()
        is_single = name.startswith(":") or name == "host"
        possible = _is_possible(name, value) and not (is_appended and is_single)
        return self._verdict(possible and self._allows(name))

    def judge_removal(self, name: str) -> Verdict:
        name = name.lower()
        return self._verdict(not name.startswith(":") and name != "host" and self._allows(name))

    def _verdict(self, allowed: bool) -> Verdict:
        if allowed:
            return Verdict.TAKEN
        return Verdict.FAILS if self.disallow_is_error else Verdict.IGNORED

    def _allows(self, name: str) -> bool:
        if self.disallow_expression is not None and self.disallow_expression.fullmatch(name):
            return False
        if self.allow_expression is not None and self.allow_expression.fullmatch(name):
            return True
        if self.disallow_all:
            return False
        if name in _ROUTING and not self.allow_all_routing:
            return False
        if name.startswith(":") and self.disallow_system:
            return False
        return self.allow_envoy or not name.startswith("x-envoy-")


def _is_possible(name: str, value: str) -> bool:
    """Whether a pseudo-header can have the value at all."""
    if name == ":status":
        return value.isascii() and value.isdecimal() and 200 <= int(value) <= 999
    if name == ":scheme":
        return value.lower() in _SCHEMES
    if name in (":authority", "host"):
        return _AUTHORITY.fullmatch(value) is not None
    if name == ":method":
        return value.isascii() and value.isalpha() and bool(value)
    return True
