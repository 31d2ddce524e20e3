"""What the settings mean for the engine, the gateway and the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from coprocess.process import redaction
from coprocess.process.chain_settings import Chains
from coprocess.process.config import Settings
from coprocess.runtime.registration import GatewayOptions, Registration
from coprocess.runtime.service_options import ServiceOptions
from coprocess.store import store
from coprocess.transport.engine import EngineOptions, Methods
from coprocess.transport.http2.limits import Limits

# As many as are of use where calls are quick (docs/performance.md).
_MIN_THREADS = 8
_MAX_METADATA_BYTES = 16_384


def reflection_methods(settings: Settings, gateway: Registration) -> Methods:
    """None, where reflection is off."""
    if not settings.reflection:
        return Methods()
    from coprocess.transport.reflection import REFLECT, Reflection

    reflection = Reflection(list(gateway.services), list(gateway.descriptors()))
    return Methods(bidi={REFLECT: reflection.begin})


def engine_options(settings: Settings) -> EngineOptions:
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        from coprocess.transport.tls import TlsFiles

        tls = TlsFiles(
            # They are read again later, when handler code may have changed the working folder.
            settings.tls_cert.absolute(),
            settings.tls_key.absolute(),
            settings.tls_client_ca and settings.tls_client_ca.absolute(),
        )
    return EngineOptions(
        max_message_bytes=settings.max_message_bytes,
        min_threads=min(_MIN_THREADS, settings.max_threads),
        max_threads=settings.max_threads,
        max_concurrent_streams=settings.http2_max_concurrent_streams,
        max_metadata_bytes=_MAX_METADATA_BYTES,
        connection_limits=connection_limits(settings),
        tls=tls,
    )


def connection_limits(settings: Settings) -> Limits:
    """What is said of them by settings of the same names."""
    set_by_name = {f"http2_{field.name}": field.name for field in fields(Limits)}
    return Limits(**{set_by_name[name]: value for name, value in settings if name in set_by_name})


def gateway_options(settings: Settings, chains: Callable[[], Chains] = dict) -> GatewayOptions:
    """Raises ConfigError where a file of secrets cannot be read."""
    request_state = None
    if settings.request_state:
        secret = settings.read_request_state_secret()
        if secret is not None:
            redaction.add_secret(secret)
        request_state = (secret, settings.request_state_s)
    return GatewayOptions(
        full_reply=settings.full_reply,
        max_headers=settings.max_headers,
        request_state=request_state,
        max_body_bytes=settings.max_message_bytes,
        chains=chains,
        limits_store=store.library_url,
    )


def service_options(settings: Settings) -> ServiceOptions:
    retry_after_s = settings.failure_retry_after_s
    return ServiceOptions(
        timeout_s=settings.timeout_s,
        concurrency=settings.concurrency,
        async_concurrency=settings.async_concurrency,
        queue_size=settings.queue_size,
        failure_status=settings.failure_status,
        failure_headers=() if retry_after_s is None else (("Retry-After", str(retry_after_s)),),
    )
