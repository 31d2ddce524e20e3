"""Tyk, as the process registers it."""

from __future__ import annotations

from collections.abc import Iterable

from coprocess.gateways.tyk import wire
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.home import HOME
from coprocess.loading.hooks import HookTable
from coprocess.runtime.registration import GatewayOptions, Registration


def _make(table: HookTable, options: GatewayOptions) -> Dispatcher:
    return Dispatcher(table, full_reply=options.full_reply, max_headers=options.max_headers)


def _descriptors() -> Iterable[bytes]:
    return [module.DESCRIPTOR.serialized_pb for module in wire.MODULES.values()]


TYK = Registration(
    HOME,
    _make,
    services=(wire.SERVICE,),
    methods=Dispatcher.METHODS,
    takes_webhooks=True,
    descriptors=_descriptors,
)
