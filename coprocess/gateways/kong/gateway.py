"""Kong's plugin server at work: opens calls from what Kong asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coprocess.api.context import CallContext
from coprocess.bounded import form_of, repr_of
from coprocess.errors import BadMessage, UnknownHook
from coprocess.gateways.kong import wire
from coprocess.gateways.kong.call import CloseCall, InstanceCall, PluginCall
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.instances import Instances, config_of
from coprocess.gateways.kong.overdue import MOST_QUEUED_S
from coprocess.gateways.kong.phases import Phase
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.call import Call
from coprocess.runtime.gateway import Gateway, Opener
from coprocess.text import printable


class UnknownInstance(UnknownHook):
    """Kong asks for an instance of a process before this one, or that was closed."""


class KongGateway(Gateway):
    name = "kong"
    # Events wait for Kong at each call of the PDK.
    is_asked_meanwhile = True
    most_queued_s = MOST_QUEUED_S

    METHODS = (wire.START_INSTANCE, wire.CLOSE_INSTANCE, wire.HANDLE_EVENT)

    def __init__(self, table: HookTable, instances: Instances) -> None:
        self.table = table
        self.instances = instances

    @property
    def table(self) -> HookTable:
        return self._table

    @table.setter
    def table(self, table: HookTable) -> None:
        self._table = table
        #: By the plugin's name and the phase, as events name them: nothing is looked up twice for those.
        self._hooks = {(hook.name, hook.type.name): hook for hook in table if hook.type.name in _PHASES}

    @property
    def methods(self) -> Mapping[str, Opener]:
        opened: dict[str, Any] = {
            wire.START_INSTANCE: self._start,
            wire.CLOSE_INSTANCE: self._close,
            wire.HANDLE_EVENT: self._event,
        }
        return opened

    def _event(self, event: Event) -> Call:
        argument = event.argument
        try:
            instance_id, phase = argument["InstanceId"], argument["EventName"]
            event.phase = phase
            instance = self.instances.find(instance_id)
            if instance is not None:
                hook = self._hooks.get((instance.plugin_name, phase))
                if hook is not None:
                    return PluginCall(hook, event, instance)
            asked = _PHASES[phase]
        except (KeyError, TypeError):
            raise BadMessage(_what_is_wrong(argument)) from None
        if instance is None:
            event.refuse_instance(instance_id)
            raise UnknownInstance(f"no plugin instance #{wire.shown(instance_id)}: Kong starts it anew")
        return PluginCall(self._hook(asked, instance.plugin_name), event, instance)

    def _start(self, event: Event) -> Call:
        name, config = config_of(event.argument)
        return InstanceCall(self._hook(Phase.start, name), event, self.instances, name, config)

    def _close(self, event: Event) -> Call:
        instance = self.instances.close(event.argument)
        if instance is None:
            event.refuse_instance(event.argument)
            raise UnknownInstance(f"no plugin instance #{wire.shown(event.argument)}")
        return CloseCall(self._hook(Phase.start, instance.plugin_name), event, instance)

    def _hook(self, phase: Phase, plugin_name: str) -> Hook:
        """Raises UnknownHook in the words of Kong's users."""
        try:
            return self.table.choose(phase, plugin_name)
        except UnknownHook:
            names = sorted({hook.name for hook in self.table})
        name = repr_of(plugin_name, 100)
        if plugin_name in names:
            raise UnknownHook(printable(f"the plugin {name} has no phase {phase.name}"))
        there_are = f"there are: {', '.join(names)}" if names else "none is loaded"
        raise UnknownHook(printable(f"no plugin {name}; {there_are}"))

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> Call:
        raise UnknownHook(f"no event {name!r}: plugins of Kong take none")


def _what_is_wrong(argument: Any) -> str:
    """Of what is no event of ours."""
    if isinstance(argument, dict) and "InstanceId" in argument and "EventName" in argument:
        return f"{repr_of(argument['EventName'], 100)} is no phase. Expected: one of {', '.join(_PHASES)}"
    return f"not an event: {form_of(argument)}. Expected: InstanceId, EventName"


_PHASES: Mapping[str, Phase] = {phase.name: phase for phase in Phase if phase is not Phase.start}
