"""What a service does where its hooks say nothing themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The defaults for hooks that say nothing themselves, and what failure means."""

    timeout_s: float = 30.0
    #: Calls of one sync hook that run at one time.
    concurrency: int = 64
    #: Calls of one async hook that run at one time.
    async_concurrency: int = 4096
    #: Calls of one hook that wait.
    queue_size: int = 256
    #: What a client sees when a hook fails closed; None: the gateway's own error.
    failure_status: int | None = None
    failure_headers: tuple[tuple[str, str], ...] = ()
    #: Whether this is the process's own service, which takes events that no call of another's triggers.
    owns_process: bool = True
