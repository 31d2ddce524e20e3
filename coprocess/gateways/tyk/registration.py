"""Tyk, as the process registers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from coprocess.gateways.tyk import wire
from coprocess.gateways.tyk.call import TykCall
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.home import HOME
from coprocess.gateways.tyk.request_state import RequestStates, StatefulCall
from coprocess.loading.hooks import HookTable
from coprocess.runtime.registration import GatewayOptions, Registration
from coprocess.store import store


def _make(table: HookTable, options: GatewayOptions) -> Dispatcher:
    make_call: Callable[..., TykCall] = TykCall
    if options.request_state is not None:
        make_call = partial(StatefulCall, states=RequestStates(store, *options.request_state))
    return Dispatcher(
        table, full_reply=options.full_reply, max_headers=options.max_headers, make_call=make_call
    )


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
