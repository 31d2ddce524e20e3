"""The gateways that `coprocess serve` serves. A new one is a folder of `gateways`, and a choice here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coprocess.gateways.envoy.registration import ENVOY
from coprocess.gateways.tyk.registration import TYK
from coprocess.runtime.registration import Registration
from coprocess.runtime.together import together

if TYPE_CHECKING:
    from coprocess.process.config import Settings

#: The one that is served where nobody asks for another.
DEFAULT = TYK


def served(settings: Settings) -> Registration:
    """What these settings ask for: one gateway, or both on the same addresses; or a web app."""
    if settings.web is not None:
        # Only here: nobody else need have a web server.
        from coprocess.gateways.web.registration import web

        return web(
            settings.web,
            interface=settings.web_interface,
            chain=settings.web_chain,
            api_id=settings.web_api_id,
            org_id=settings.web_org_id,
            config=settings.web_config,
            timeout_s=settings.timeout_s,
            shutdown_timeout_s=settings.shutdown_timeout_s,
            threads=settings.concurrency,
        )
    if not settings.envoy:
        return DEFAULT
    return together(TYK, ENVOY) if settings.tyk else ENVOY
