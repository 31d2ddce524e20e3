"""Maps and lists of text whose edits are checked when they are made, over whatever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence
from typing import Any

from coprocess.expected import expect_text, wrong_type


def items_of(values: Iterable[Any]) -> list[Any]:
    """`values` as a list. Raises TypeError for one text, which is several values by accident."""
    if isinstance(values, str):
        raise TypeError(f"expected several values, not the text {values!r}")
    return list(values)


def texts(name: str, values: Iterable[Any]) -> list[str]:
    """The same, where each value must be text. `name` is what errors call them."""
    return [expect_text(f"a value of {name}", value) for value in items_of(values)]


class TextMap(MutableMapping[str, str]):
    """A map, such as protobuf's, as a dict: asking for an absent key is a KeyError and adds nothing."""

    __slots__ = ("_map", "_name")

    def __init__(self, texts_by_name: MutableMapping[str, str], name: str = "metadata") -> None:
        """`name` is what errors call it."""
        self._map = texts_by_name
        self._name = name

    def __getitem__(self, key: str) -> str:
        if (value := self._map.get(key)) is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: str) -> None:
        if not isinstance(key, str):
            raise wrong_type(f"a key of {self._name}", "a str", key)
        if not isinstance(value, str):
            raise wrong_type(f"{self._name}[{key!r}]", "a str", value)
        self._map[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self._map:
            raise KeyError(key)
        del self._map[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._map))

    def __len__(self) -> int:
        return len(self._map)

    def __repr__(self) -> str:
        return f"TextMap({sorted(self._map)})"


class TextList(MutableSequence[str]):
    """A list of text, such as protobuf's."""

    __slots__ = ("_list", "_name")

    def __init__(self, values: MutableSequence[str], name: str) -> None:
        """`name` is what errors call it."""
        self._list = values
        self._name = name

    def __getitem__(self, index: Any) -> Any:
        return self._list[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._list[index] = texts(self._name, value)
        else:
            self._list[index] = expect_text(f"a value of {self._name}", value)

    def __delitem__(self, index: Any) -> None:
        del self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def insert(self, index: int, value: str) -> None:
        self._list.insert(index, expect_text(f"a value of {self._name}", value))

    def extend(self, values: Iterable[str]) -> None:
        self._list.extend(texts(self._name, values))

    def __getattr__(self, name: str) -> Any:
        """What else protobuf's own list has: `sort`, `MergeFrom`."""
        return getattr(self._list, name)

    def __eq__(self, other: object) -> bool:
        return list(self._list) == (list(other) if isinstance(other, TextList) else other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        return repr(list(self._list))
