"""The calls of a plugin: a phase of a request, and the start and the end of an instance."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from coprocess.api.context import current_call
from coprocess.gateways.kong import wire
from coprocess.gateways.kong.answers import RETURN, failure_data, pack_exit
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.instances import Instance
from coprocess.runtime.call import Call
from coprocess.runtime.forked import end_child, origin

if TYPE_CHECKING:
    from coprocess.gateways.kong.instances import Instances
    from coprocess.loading.hooks import Hook


class _EventCall(Call):
    """A call for an event of Kong's, which names no API and no organisation."""

    __slots__ = ()

    event: Event

    api_id = org_id = ""  # Not properties: each event is asked for one.

    def run(self) -> bytes:
        self.event.thread = get_ident()
        return super().run()


class PluginCall(_EventCall):
    """One phase of a plugin. `plugin` and `kong` are what its method is called with."""

    __slots__ = ("event", "instance")

    def __init__(self, hook: Hook, event: Event, instance: Instance) -> None:
        self.hook = hook
        self.event = event
        self.instance = instance

    @property
    def plugin(self) -> Instance:
        return self.instance

    def run(self) -> bytes:
        # As of all calls. Nothing is taken of what a phase gives.
        event, instance = self.event, self.instance
        event.thread = get_ident()
        token = current_call.set(self)
        try:
            self.hook.function(instance, event)
        except BaseException as error:  # noqa: BLE001 - as in `Call.run`
            current_call.reset(token)  # What is logged now knows the call. Else its context ends with it.
            return self.ended_by(error)
        finally:
            if origin.call is self:
                end_child()
        return RETURN

    async def run_async(self) -> bytes:
        self.event.thread = get_ident()
        return await super().run_async()

    def finish(self) -> bytes:
        return RETURN

    def unchanged(self) -> bytes:
        return RETURN

    def refused(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        if self.event.phase == "log":
            return failure_data(self.event.phase)
        return pack_exit(status, {"message": message}, dict(headers) or None)


class InstanceCall(_EventCall):
    """The start of an instance: the plugin's own `__init__` runs."""

    __slots__ = ("event", "instance", "instances")

    def __init__(
        self, hook: Hook, event: Event, instances: Instances, name: str, config: dict[str, Any]
    ) -> None:
        self.hook = hook
        self.event = event
        self.instances = instances
        self.instance = Instance(name, config)

    def finish(self) -> bytes:
        instance = self.instances.add(self.instance)
        return wire.pack(
            {
                "Name": instance.plugin_name,
                "Id": instance.id,
                "Config": instance.config,
                "StartTime": time.time(),
            }
        )


class CloseCall(_EventCall):
    """The end of an instance, which runs none of the plugin's code."""

    __slots__ = ("event", "instance")

    def __init__(self, hook: Hook, event: Event, instance: Instance) -> None:
        self.hook = hook
        self.event = event
        self.instance = instance

    def run(self) -> bytes:
        self.event.thread = get_ident()
        instance = self.instance
        return wire.pack({"Name": instance.plugin_name, "Id": instance.id, "Config": instance.config})
