"""Requests and headers that stay as they came until somebody asks: most handlers look at a header or two."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from coprocess.api.body import OF_THE_BYTES
from coprocess.api.held import HeldHeaders, HeldRequest
from coprocess.api.http import canonical_name, header_name, header_value

#: Of headers that nobody has edited.
NO_EDITS: Any = MappingProxyType({})


class UnreadHeaders(HeldHeaders):
    """Headers that stay as they came until all of them are wanted: most handlers want one or two.

    A class that derives from it knows how they came.
    """

    __slots__ = ("_edited", "_read", "replaced")

    #: As that of the base class. None: all were wanted, and are in `_read`, with the names of those edited.
    replaced: dict[str, str] | None
    _read: CIMultiDict[str]
    _edited: set[str]

    def __init__(self) -> None:
        self.replaced = NO_EDITS
        self._set_now = None

    @abstractmethod
    def _came(self, name: str) -> list[str]:
        """The values that came under `name`, which has no character but ASCII's."""

    @abstractmethod
    def _all_that_came(self) -> Iterable[tuple[str, str]]:
        """Canonical names and values, in order."""

    # As the attributes of the base class.

    @property
    def _values(self) -> CIMultiDict[str]:  # type: ignore[override]  # a slot there
        if self.replaced is not None:
            self._read = CIMultiDict(self._all_that_came())
            self._edited = set(self.replaced)
            for name, value in self.replaced.items():
                self._read[name] = value
            self.replaced = None
        return self._read

    @property
    def edited(self) -> Any:  # An attribute there.
        return self._edited if self.replaced is None else self.replaced.keys()

    def getall(self, name: str) -> list[str]:
        if (replaced := self.replaced) is not None and isinstance(name, str) and name.isascii():
            value = replaced.get(canonical_name(name)) if replaced else None
            return self._came(name) if value is None else [value]
        return super().getall(name)

    def get(self, name: str, default: Any = None) -> Any:
        values = self.getall(name) if isinstance(name, str) else ()
        return values[0] if values else default

    def __getitem__(self, name: str) -> str:
        if isinstance(name, str) and (values := self.getall(name)):
            return values[0]
        raise KeyError(name)

    def __setitem__(self, name: str, value: str) -> None:
        name = header_name(name)
        if type(value) is not str or not value.isprintable():  # As `header_value` does, sooner.
            value = header_value(name, value)
        if (replaced := self.replaced) is None:
            self._read[name] = value
            self._edited.add(name)
        elif replaced:
            replaced[name] = value
        else:
            self.replaced = {name: value}
        if name in OF_THE_BYTES:
            self._was_set(name)


class UnreadRequest(HeldRequest):
    """A request whose line is read when somebody asks: many handlers look at a header only.

    A class that derives from it knows how it came, and keeps that as it was.
    """

    if not TYPE_CHECKING:
        __slots__ = ("_read_path", "_read_query")

    def __init__(self, method: str, headers: HeldHeaders, body_source: Callable[[], bytes]) -> None:
        # Not by the base class's, which wants the line.
        self._method = method
        self._headers = headers
        self._body_source = body_source
        self._read_path = self._read_query = self._query = self._target = self._body = self.open_stream = None
        self.has_new_body = self.has_new_path = self._has_body_of_handler = False

    @abstractmethod
    def _path_that_came(self) -> str:
        """Encoded, as it was sent where the server tells that."""

    @abstractmethod
    def _query_that_came(self) -> str:
        """Encoded; empty where there is none."""

    @abstractmethod
    def _scheme_that_came(self) -> str:
        """`http` or `https`; or `ws`, `wss`."""

    if not TYPE_CHECKING:  # They are attributes of the base class.

        @property
        def _path(self) -> str:
            if self._read_path is None:
                self._read_path = self._path_that_came()
            return self._read_path

        @_path.setter
        def _path(self, path: str) -> None:
            self._read_path = path

        @property
        def _query_string(self) -> str:
            if self._read_query is None:
                self._read_query = self._query_that_came()
            return self._read_query

        @property
        def _scheme(self) -> str:
            return self._scheme_that_came()
