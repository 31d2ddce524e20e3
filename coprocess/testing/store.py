"""The `store` fixture."""

from __future__ import annotations

from coprocess.desk.store import TRIAL_TIMEOUT_S, TemporaryServer
from coprocess.store import Store


class TrialStore(Store):
    """A store on the server that handlers have theirs on."""

    def __init__(self, server: TemporaryServer) -> None:
        super().__init__()
        self._server = server
        self.configure(server.url, timeout_s=TRIAL_TIMEOUT_S)

    def advance(self, seconds: float) -> None:
        """Bring the end of every key that has one nearer, as if the time had passed."""
        self._server.advance(seconds)
