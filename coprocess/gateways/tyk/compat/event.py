"""`tyk.event`: the event as handlers of the embedded driver know it."""

from coprocess.gateways.tyk.event import TykEvent

__all__ = ["TykEvent"]
