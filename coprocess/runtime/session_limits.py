"""What `session.allow` promised of rate and quota, kept on the store by the library `limits`."""

from __future__ import annotations

import threading
from typing import Any

from coprocess.api.held_session import HeldSession
from coprocess.errors import ConfigError

#: A quota that never renews: the longest time that the store keeps a count.
_FOR_EVER_S = 100 * 365 * 24 * 3600

_IN_PROCESS = "memory://"
_TIMES_S: Any = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}


class Limiter:
    """Counts requests by token. `store` is the address of a Redis or Valkey server; None: this process."""

    def __init__(self, store: str | None, api_id: str = "") -> None:
        self._address = store or _IN_PROCESS
        self._api_id = api_id
        self._lock = threading.Lock()
        self._strategy: Any = None

    def exceeded(self, session: HeldSession, api_id: str | None = None) -> str:
        """Count a request: `rate` or `quota`, whichever is exceeded first, or empty.

        `api_id` None: the one that it was made for. Each API counts apart.
        Writes what is left into the session. Raises ConfigError where the library is absent, and what the
        store raises. It blocks.
        """
        strategy = self._strategy or self._start()
        from limits import RateLimitItemPerSecond

        token = session.token
        prefix = f"coprocess:{self._api_id if api_id is None else api_id}"
        if session.rate > 0:
            rate = RateLimitItemPerSecond(max(int(session.rate), 1), max(int(session.per), 1), prefix)
            if not strategy.hit(rate, "rate", token):
                return "rate"
        if session.quota_max > 0:
            renewal_s = session.quota_renewal_rate if session.quota_renewal_rate > 0 else _FOR_EVER_S
            quota = RateLimitItemPerSecond(session.quota_max, renewal_s, prefix)
            is_within = strategy.hit(quota, "quota", token)
            renews, left = strategy.get_window_stats(quota, "quota", token)
            session.quota_remaining, session.quota_renews = int(left), int(renews)
            if not is_within:
                return "quota"
        return ""

    def _start(self) -> Any:
        try:
            from limits.storage import storage_from_string
            from limits.strategies import FixedWindowRateLimiter
        except ImportError:
            raise ConfigError(
                "session.allow(rate=…, quota_max=…) is kept by the package limits, which is not installed. "
                'Expected: pip install "coprocess[web]", or of Envoy "coprocess[envoy]"'
            ) from None
        with self._lock:
            if self._strategy is None:
                # Else a store that does not answer would hold the request for ever.
                times = {} if self._address == _IN_PROCESS else _TIMES_S
                self._strategy = FixedWindowRateLimiter(storage_from_string(self._address, **times))
            return self._strategy

    def close(self) -> None:
        """Let go of the connections. Counts in this process go on, should it be opened again."""
