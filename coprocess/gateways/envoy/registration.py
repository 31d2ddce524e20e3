"""Envoy, as the process registers it."""

from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.home import HOME
from coprocess.runtime.registration import Registration

ENVOY = Registration(
    HOME,
    EnvoyGateway,
    services=(wire.EXT_PROC, wire.EXT_AUTHZ),
    methods=(wire.CHECK,),
    bidi_methods=(wire.PROCESS,),
    descriptors=lambda: wire.FILES,
)
