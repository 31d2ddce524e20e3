"""The message classes of Tyk's coprocess protocol.

They are built in a descriptor pool of our own from the descriptor set that `make proto` compiles:
handlers may import their own `coprocess_*_pb2` modules, and two copies of one file in protobuf's
default pool do not coexist. `MODULES` offers the same classes under the module names that plugins
import.
"""

from __future__ import annotations

from importlib.resources import files
from types import ModuleType
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from coprocess.gateways.tyk.wire.values import mend_text_maps, name_fields_in_errors, name_types_in_lists

if TYPE_CHECKING:
    from .coprocess_common_pb2 import HookType, StringSlice
    from .coprocess_mini_request_object_pb2 import MiniRequestObject
    from .coprocess_object_pb2 import Event, EventReply, Object
    from .coprocess_response_object_pb2 import Header, ResponseObject
    from .coprocess_return_overrides_pb2 import ReturnOverrides
    from .coprocess_session_state_pb2 import (
        AccessDefinition,
        AccessSpec,
        BasicAuthData,
        JWTData,
        Monitor,
        SessionState,
    )

__all__ = [
    "DISPATCH",
    "DISPATCH_EVENT",
    "MODULES",
    "POOL",
    "SERVICE",
    "AccessDefinition",
    "AccessSpec",
    "BasicAuthData",
    "Event",
    "EventReply",
    "Header",
    "HookType",
    "JWTData",
    "MiniRequestObject",
    "Monitor",
    "Object",
    "ResponseObject",
    "ReturnOverrides",
    "SessionState",
    "StringSlice",
]

SERVICE = "coprocess.Dispatcher"
DISPATCH = f"/{SERVICE}/Dispatch"
DISPATCH_EVENT = f"/{SERVICE}/DispatchEvent"

POOL = descriptor_pool.DescriptorPool()


def _build_modules() -> dict[str, ModuleType]:
    compiled = descriptor_pb2.FileDescriptorSet.FromString(
        files(__name__).joinpath("coprocess.descriptorset").read_bytes()
    )
    for file in compiled.file:
        POOL.Add(file)
    modules: dict[str, ModuleType] = {}
    for file in compiled.file:
        module = ModuleType(file.name.removesuffix(".proto") + "_pb2")
        module.DESCRIPTOR = POOL.FindFileByName(file.name)  # type: ignore[attr-defined]  # as protoc's own modules
        for name, message in module.DESCRIPTOR.message_types_by_name.items():
            message_class = message_factory.GetMessageClass(message)
            name_fields_in_errors(message_class)
            setattr(module, name, message_class)
        for name, enum in module.DESCRIPTOR.enum_types_by_name.items():
            wrapper = EnumTypeWrapper(enum)
            setattr(module, name, wrapper)
            for value, number in wrapper.items():
                setattr(module, value, number)
        modules[module.__name__] = module
    return modules


#: Module name, as plugins import it, to a module that holds our classes.
MODULES: dict[str, ModuleType] = _build_modules()

if not TYPE_CHECKING:

    def _export() -> dict[str, Any]:
        return {
            name: value
            for module in MODULES.values()
            for name, value in vars(module).items()
            if name in __all__
        }

    globals().update(_export())
    mend_text_maps(Object().metadata, POOL)
    name_types_in_lists(SessionState().tags)
