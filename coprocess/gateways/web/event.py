"""Events around a web app, in the form in which gateways send theirs."""

from coprocess.runtime.held_event import HeldEventCall as WebEventCall
from coprocess.runtime.held_event import event_of, message_of

__all__ = ["WebEventCall", "event_of", "message_of"]
