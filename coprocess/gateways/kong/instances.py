"""Instances of plugins: one for each configuration that Kong has of one, by the id that Kong gets for it."""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from typing import Any

from coprocess.bounded import repr_of
from coprocess.errors import BadMessage

#: Kong never closes the instances of a plugin entity that was removed: beyond so many, those go that were
#: used longest ago. Kong starts what it still needs anew.
MOST_INSTANCES = 5000


class Instance:
    """A plugin with one configuration. After a reload it has a new object, of the new code."""

    __slots__ = ("_lock", "config", "id", "made", "plugin_name")

    def __init__(self, plugin_name: str, config: dict[str, Any]) -> None:
        #: None until it is added.
        self.id: int | None = None
        self.plugin_name = plugin_name
        self.config = config
        self._lock = threading.Lock()
        #: The class, and the object that was made of it last.
        self.made: tuple[type, Any] | None = None

    def object_of(self, plugin_class: type) -> Any:
        """The object of that class, made where there is none. Raises what its code raises."""
        made = self.made
        return made[1] if made is not None and made[0] is plugin_class else self.make(plugin_class)[1]

    def make(self, plugin_class: type) -> tuple[type, Any]:
        """As `object_of`: `made`, with that class."""
        with self._lock:
            made = self.made
            if made is None or made[0] is not plugin_class:
                # Of a copy: a plugin that changes its configuration changes it for itself.
                made = self.made = plugin_class, plugin_class(json.loads(json.dumps(self.config)))
            return made


class Instances:
    """All that Kong has started and not closed."""

    def __init__(self, first_id: int = 0) -> None:
        """`first_id`: one by which those of a server before this one are not mistaken for these."""
        self._ids = itertools.count(first_id)
        self._by_id: OrderedDict[Any, Instance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, instance: Instance) -> Instance:
        """Give it its id. Kong may ask for it from now on."""
        instance.id = self._next_id()
        self._by_id[instance.id] = instance
        while len(self._by_id) > MOST_INSTANCES:
            # In one step: other threads add some at the same time.
            oldest, _ = self._by_id.popitem(last=False)
            self._forget(oldest)
        return instance

    def _next_id(self) -> int:
        return next(self._ids)

    def _forget(self, instance_id: Any) -> None:
        self._by_id.pop(instance_id, None)

    def find(self, instance_id: Any) -> Instance | None:
        try:
            instance = self._by_id[instance_id]
            if len(self._by_id) > MOST_INSTANCES // 2:  # Else it does not matter yet which was used when.
                self._by_id.move_to_end(instance_id)
        except (KeyError, TypeError):
            return None
        return instance

    def close(self, instance_id: Any) -> Instance | None:
        try:
            return self._by_id.pop(instance_id, None)
        except TypeError:
            return None


def config_of(argument: Any) -> tuple[str, dict[str, Any]]:
    """Name and configuration of what Kong starts. Raises BadMessage."""
    name = argument.get("Name") if isinstance(argument, dict) else None
    text = argument.get("Config") if isinstance(argument, dict) else None
    if not isinstance(name, str) or not isinstance(text, str | bytes):
        raise BadMessage("StartInstance came without Name or Config. Expected: both, as text")
    try:
        config = json.loads(text.encode(errors="surrogateescape") if isinstance(text, str) else text)
    except (ValueError, RecursionError):
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            raise BadMessage(f"the configuration of {repr_of(name, 100)} is no JSON") from None
    if not isinstance(config, dict):
        raise BadMessage(f"the configuration of {repr_of(name, 100)} is no JSON object")
    return name, config
