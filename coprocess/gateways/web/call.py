"""One call of a handler around a web app: over the exchange that all calls of a request share."""

from coprocess.runtime.held_call import HeldCall as WebCall
from coprocess.runtime.held_call import HeldExchange as Exchange

__all__ = ["Exchange", "WebCall"]
