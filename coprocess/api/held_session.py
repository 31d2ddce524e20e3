"""Sessions that are held in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from coprocess.api.messages import Session
from coprocess.api.texts import TextList, TextMap, texts
from coprocess.expected import expect_int, expect_rate, expect_text, wrong_type


def _expect_number(what: str, value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise wrong_type(what, "a number", value)
    if value != value:  # NaN, which limits nothing.
        raise ValueError(f"{what} is a number, not NaN")
    return value


def _expect_bool(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(what, "a bool", value)
    return value


def _checked(name: str, check: Callable[[str, Any], Any]) -> property:
    """An attribute that is checked when it is assigned. To read it costs as little as a slot."""
    slot, what = f"_{name}", f"session.{name}"

    def assign(session: HeldSession, value: Any) -> None:
        setattr(session, slot, check(what, value))

    return property(attrgetter(slot), assign)


class HeldSession(Session):
    """The caller, in memory: false until `allow` made it, or something was set."""

    if not TYPE_CHECKING:
        __slots__ = (
            "_alias",
            "_expires",
            "_is_inactive",
            "_metadata",
            "_org_id",
            "_per",
            "_quota_max",
            "_quota_remaining",
            "_quota_renewal_rate",
            "_quota_renews",
            "_rate",
            "_tags",
            "_token",
        )

    def __init__(self) -> None:
        self._token = ""
        # Made when they are asked for: most callers are named, and no more.
        self._metadata: TextMap | None = None
        self._tags: TextList | None = None
        self._rate = self._per = 0.0
        self._quota_max = self._quota_remaining = self._quota_renews = self._quota_renewal_rate = 0
        self._expires = 0
        self._alias = self._org_id = ""
        self._is_inactive = False

    #: Names the caller: equal tokens share rate and quota. Empty: nobody is known.
    token: str

    if not TYPE_CHECKING:  # They are attributes of the base class to type checkers.
        # What a handler leaves goes to gateways and stores: of a wrong type, it fails here, by its name.
        token = _checked("token", expect_text)
        alias = _checked("alias", expect_text)
        org_id = _checked("org_id", expect_text)
        rate = _checked("rate", _expect_number)
        per = _checked("per", _expect_number)
        quota_max = _checked("quota_max", expect_int)
        quota_remaining = _checked("quota_remaining", expect_int)
        quota_renews = _checked("quota_renews", expect_int)
        quota_renewal_rate = _checked("quota_renewal_rate", expect_int)
        expires = _checked("expires", expect_int)
        is_inactive = _checked("is_inactive", _expect_bool)

        @property
        def metadata(self) -> MutableMapping[str, str]:
            if self._metadata is None:
                self._metadata = TextMap({}, "session.metadata")
            return self._metadata

        @metadata.setter
        def metadata(self, metadata: Mapping[str, str]) -> None:
            # Into a map of its own first: of a bad one, nothing is taken.
            checked = TextMap({}, "session.metadata")
            checked.update(metadata)
            self._metadata = checked

        @property
        def tags(self) -> MutableSequence[str]:
            if self._tags is None:
                self._tags = TextList([], "session.tags")
            return self._tags

        @tags.setter
        def tags(self, tags: Iterable[str]) -> None:
            self._tags = TextList(texts("session.tags", tags), "session.tags")

    def __bool__(self) -> bool:
        return bool(self._token)

    def allow(
        self,
        token: str,
        *,
        rate: float | None = None,
        per: float | None = None,
        quota_max: int | None = None,
        quota_renewal_rate_s: int | None = None,
        expires_at: int | None = None,
        cache_for_s: int | None = None,
        alias: str | None = None,
        tags: Iterable[str] = (),
        policies: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(token, str) or not token:
            raise ValueError("a token is text, and not empty")
        if policies is not _NONE and list(policies):
            raise ValueError("policies are Tyk's: this gateway has none. Expected: rate and quota given here")
        if per is not None and rate is None:
            raise ValueError("per without rate limits nothing")
        added = texts("tags", tags) if tags is not _NONE else _NONE
        if rate is not None:
            self.rate, self.per = expect_rate("rate", rate), 1.0 if per is None else expect_rate("per", per)
        if quota_max is not None:
            self.quota_max = self.quota_remaining = expect_int("quota_max", quota_max)
        if quota_renewal_rate_s is not None:
            self.quota_renewal_rate = expect_int("quota_renewal_rate_s", quota_renewal_rate_s)
        if expires_at is not None:
            self.expires = expect_int("expires_at", expires_at)
        if alias is not None:
            self.alias = expect_text("alias", alias)
        if metadata is not None:
            self.metadata.update(metadata)
        if added:
            self.tags.extend(added)
        # Last: what raises admits nobody.
        self._token = token

    @property
    def has_more_than_metadata(self) -> bool:
        """Whether anything but `metadata` was set."""
        return bool(
            self.token
            or self.alias
            or self._tags
            or self.expires
            or self.is_inactive
            or self.rate
            or self.per
            or self.quota_max
            or self.quota_remaining
            or self.quota_renews
            or self.quota_renewal_rate
        )

    @property
    def is_expired(self) -> bool:
        return self.expires > 0 and self.expires <= time.time()

    def __repr__(self) -> str:
        return f"<Session of {self.alias or 'no alias'}>" if self else "<Session: none>"


#: The one empty tuple: nothing was given.
_NONE: tuple[str, ...] = ()
