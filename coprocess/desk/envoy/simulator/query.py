"""A query string as ext_authz rewrites it: sorted by name, values as they are."""

from __future__ import annotations


class Query:
    """What is set goes in as it is: who does not encode it breaks the path."""

    def __init__(self, path: str, values: dict[str, list[str]]) -> None:
        self._path = path
        self._values = values

    @classmethod
    def of(cls, target: str) -> Query:
        path, _, text = target.partition("?")
        values: dict[str, list[str]] = {}
        for part in text.split("&"):
            name, _, value = part.partition("=")
            if name or value:
                values.setdefault(name, []).append(value)
        return cls(path, values)

    def set(self, name: str, value: str) -> None:
        self._values[name] = [value]

    def remove(self, name: str) -> None:
        self._values.pop(name, None)

    @property
    def target(self) -> str:
        parts = [f"{name}={value}" for name in sorted(self._values) for value in self._values[name]]
        return f"{self._path}?{'&'.join(parts)}" if parts else self._path
