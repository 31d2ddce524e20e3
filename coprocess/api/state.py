"""`state`, `g` and `current_app`: what belongs to one request, and to the folder whose handler runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from coprocess.api.context import current_call, opening_app

if TYPE_CHECKING:
    from coprocess.api.app import App


class State(SimpleNamespace):
    """Attributes of any name, which the code of one request shares."""

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(vars(self)) or "nothing"
        raise AttributeError(f'the state has no "{name}" yet; set so far: {known}')

    def get(self, name: str, default: Any = None) -> Any:
        return vars(self).get(name, default)

    def pop(self, name: str, default: Any = None) -> Any:
        return vars(self).pop(name, default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        return vars(self).setdefault(name, default)

    def __contains__(self, name: object) -> bool:
        return name in vars(self)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))


class _Current:
    """Stands for an object of the call that runs. Raises RuntimeError outside of one."""

    __slots__ = ("_attribute", "_name")

    def __init__(self, name: str, attribute: str) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_attribute", attribute)

    def _object(self) -> Any:
        call = current_call.get()
        if call is None and self._attribute == "app" and (app := opening_app.get()) is not None:
            return app
        if call is None:
            raise RuntimeError(f"{self._name} was used where no handler runs")
        found = getattr(call, self._attribute)
        if found is None:
            raise RuntimeError(f"{self._name} was used by a handler whose folder has none")
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Whoever looks at a module's names asks for these outside of calls.
            raise AttributeError(name)
        return getattr(self._object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._object(), name)

    def __contains__(self, item: object) -> bool:
        return item in self._object()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._object())

    def __repr__(self) -> str:
        return f"<{self._name}>" if current_call.get() is None else repr(self._object())


#: The state of the request whose handler runs, as users of Flask know it.
g = cast("State", _Current("g", "state"))
#: The App of the folder whose handler runs, or whose resource opens or closes.
current_app = cast("App", _Current("current_app", "app"))
