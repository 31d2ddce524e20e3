"""One request through the simulated gateway, watched: what each hook did, and what became of it.

`coprocess try` and the pytest plugin stand on it.
"""

from __future__ import annotations

from coprocess.desk.as_upstream import as_upstream
from coprocess.desk.tyk.trial.dispatchers import (
    GrpcDispatcher,
    HandlerRun,
    InProcessDispatcher,
    dispatcher_of,
)
from coprocess.desk.tyk.trial.findings import Finding
from coprocess.desk.tyk.trial.gateway import EventTrial, HookTrial, ObservedGateway, Trial
from coprocess.desk.tyk.trial.project import find_definition, keyless_definition
from coprocess.desk.tyk.trial.tls import ClientTls

__all__ = [
    "ClientTls",
    "EventTrial",
    "Finding",
    "GrpcDispatcher",
    "HandlerRun",
    "HookTrial",
    "InProcessDispatcher",
    "ObservedGateway",
    "Trial",
    "as_upstream",
    "dispatcher_of",
    "find_definition",
    "keyless_definition",
]
