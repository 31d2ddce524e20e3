"""What a filter is for, worked out from the settings and the handlers."""

from __future__ import annotations

from coprocess.api.moments import HookType
from coprocess.desk.envoy.configuration import Wanted
from coprocess.errors import ConfigError, UnknownHook
from coprocess.gateways.envoy.chain import Chains, chain_of
from coprocess.gateways.envoy.route import Route
from coprocess.loading.hooks import HookTable
from coprocess.process.config import Settings

#: What Envoy is told to buffer, at most: each request may need as much of its memory.
_BODY_BYTES = 4 << 20


def wanted_of(
    settings: Settings, table: HookTable, chains: Chains, chain: str, *, is_authz: bool = False
) -> Wanted:
    """Raises ConfigError where the chain, or one of its handlers, is not there."""
    try:
        found = chain_of(table, Route(chain=chain), chains)
    except UnknownHook as error:
        raise ConfigError(str(error)) from None
    checks = [step for moment, steps in found.before if moment is HookType.CustomKeyCheck for step in steps]
    if is_authz and not checks:
        raise ConfigError("ext_authz runs handlers of CustomKeyCheck, and there are none")
    reads = any(step.uses_body for step in checks) if is_authz else found.reads_request
    return Wanted(
        address=settings.listen[0],
        chain=chain,
        has_response=bool(found.after),
        reads_body=reads or (not is_authz and (found.streams or any(step.uses_body for step in found.after))),
        authenticates=bool(checks),
        is_authz=is_authz,
        timeout_s=settings.timeout_s,
        max_body_bytes=min(settings.max_message_bytes, _BODY_BYTES),
    )
