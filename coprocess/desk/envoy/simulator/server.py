"""The servers that the simulated Envoy calls: what a processor and an authorizer must look like to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from coprocess.desk.envoy.simulator.exchange import Pairs


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """One message of a server, serialized."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ServerEnd:
    """The RPC is over. `code` is gRPC's number: 0 is OK."""

    code: int
    message: str = ""


ServerEvent = ServerMessage | ServerEnd


class ServerUnreachable(Exception):
    """Nobody listens there."""


class ProcessStream(ABC):
    """One `Process` call."""

    @abstractmethod
    def send(self, payload: bytes) -> bool:
        """False where the server does not take it: it is over its limit."""

    @abstractmethod
    def receive(self, timeout_s: float) -> tuple[ServerEvent | None, float]:
        """The next event, and how long it took. None where none came in that time."""

    @abstractmethod
    def poll(self) -> ServerEvent | None:
        """The next event, if it is there already."""

    @abstractmethod
    def close(self) -> None:
        """Envoy is done with it: half-close, then a reset. Called once or more."""


class Server(Protocol):
    """Whatever answers for the clusters that the filters name."""

    def process(self, cluster: str, metadata: Pairs) -> ProcessStream:
        """Raises ServerUnreachable."""

    def check(
        self, cluster: str, metadata: Pairs, payload: bytes, timeout_s: float | None
    ) -> tuple[ServerEvent | None, float]:
        """The answer and how long it took; None where none came in time. Raises ServerUnreachable."""
