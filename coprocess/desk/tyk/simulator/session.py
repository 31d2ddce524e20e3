"""What the gateway remembers between requests: sessions, rate, quota."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from coprocess.gateways.tyk import wire


@dataclass(slots=True)
class _Window:
    ends: float
    used: int = 0


@dataclass(slots=True)
class GatewayState:
    """Shared by the gateways of several APIs, as one real gateway shares it.

    Entries are not dropped when they expire: a real gateway's store drops a session after its lifetime.
    """

    sessions: dict[str, wire.SessionState] = field(default_factory=dict)
    _rates: dict[str, _Window] = field(default_factory=dict, init=False)
    _quotas: dict[str, _Window] = field(default_factory=dict, init=False)

    def rate_exceeded(self, session: wire.SessionState, now: float) -> bool:
        """Count this request. A session with another `last_updated` starts a count of its own.

        As one gateway alone counts: `rate` requests from the first one on, until `per` seconds end.
        """
        if session.rate <= 0:
            return False
        window = self._rates.setdefault(f"{session.key_id}:{session.last_updated}", _Window(-math.inf))
        if now > window.ends:
            window.ends, window.used = now + int(session.per), 0
        if window.used + 1 > max(session.rate, 1):
            return True
        window.used += 1
        return False

    def quota_exceeded(self, session: wire.SessionState, now: float) -> bool:
        """Count this request and write what is left into the session; later hooks see it."""
        if session.quota_max <= 0:
            return False
        renewal = max(session.quota_renewal_rate, 0)
        window = self._quotas.get(session.key_id)
        if window is None or now >= window.ends:
            # A quota that never renews has no end; the gateway then tells the present as its renewal.
            window = _Window(now + renewal if renewal else math.inf)
            self._quotas[session.key_id] = window
        window.used += 1
        session.quota_remaining = max(session.quota_max - window.used, 0)
        session.quota_renews = int(window.ends if renewal else now)
        return window.used > session.quota_max


def accept_session(reply: wire.SessionState, org_id: str) -> wire.SessionState:
    """The session that CustomKeyCheck gave, as later hooks see it: without what the gateway does not keep.

    Sub-messages are present, and empty, even where the reply had none (recording `auth_ok`). The
    gateway 5.14 puts as many empty entries before `allowed_urls` as there are entries (its source),
    and never sends `certificate` and `max_query_depth` on (its source).
    """
    session = wire.SessionState()
    session.CopyFrom(reply)
    session.DiscardUnknownFields()
    session.org_id = org_id
    session.ClearField("certificate")
    session.ClearField("max_query_depth")
    for rights in session.access_rights.values():
        urls = list(rights.allowed_urls)
        rights.ClearField("allowed_urls")
        rights.allowed_urls.extend([wire.AccessSpec() for _ in urls])
        rights.allowed_urls.extend(urls)
    return with_parts(session)


def with_parts(session: wire.SessionState) -> wire.SessionState:
    """With the sub-messages that the gateway always writes."""
    session.basic_auth_data.SetInParent()
    session.jwt_data.SetInParent()
    session.monitor.SetInParent()
    return session


def keyless_session() -> wire.SessionState:
    """What Response hooks see where nobody authenticated (recording `chain_headers_flow`)."""
    return with_parts(wire.SessionState())
