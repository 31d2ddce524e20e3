"""What code may know of the call it runs in without being passed it: for logs, and for local events."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from coprocess.api.app import App
    from coprocess.api.state import State

from coprocess.expected import expect_text


class CallContext(Protocol):
    """The call that is running: `runtime.call.Call`, as code below that sees it."""

    @property
    def hook_type(self) -> str: ...

    @property
    def hook_name(self) -> str: ...

    @property
    def api_id(self) -> str:
        """Empty where the gateway did not say."""

    @property
    def org_id(self) -> str:
        """As `api_id`."""

    @property
    def version(self) -> str:
        """Of the handlers, where a route chose one; empty: the default version."""

    @property
    def hook(self) -> Any:
        """A `loading.hooks.Hook`."""

    @property
    def state(self) -> State: ...

    @property
    def app(self) -> App | None:
        """Of the handler's folder, where that has one."""

    @property
    def event_sink(self) -> Callable[[str, str], None] | None:
        """What takes the events that this call triggers; None: what takes the process's."""
        return None


#: None outside of a call. Set in the thread or task that runs the handler.
current_call: ContextVar[CallContext | None] = ContextVar("coprocess_call", default=None)

#: The App whose resources open or close here: `current_app` is it, where no call is.
opening_app: ContextVar[App | None] = ContextVar("coprocess_opening_app", default=None)

#: Takes a name and a payload (JSON text) that a handler triggers. The service that owns the process sets it.
_event_sink: Callable[[str, str], None] | None = None


def set_event_sink(sink: Callable[[str, str], None] | None) -> None:
    """Say who takes the events that handlers trigger."""
    global _event_sink
    _event_sink = sink


def trigger_event(name: str, payload: str) -> None:
    """Run the loaded `@Event` function `name`, apart from this call.

    `payload` is text, JSON or not. An event that no function takes is logged. Raises RuntimeError
    where no service runs, TypeError where either is no text.
    """
    expect_text("an event's name", name)
    if not isinstance(payload, str):
        raise TypeError(
            f'the payload of event "{name}" is a str, not {type(payload).__name__}: write json.dumps(…)'
        )
    call = current_call.get()
    sink = (None if call is None else call.event_sink) or _event_sink
    if sink is None:
        raise RuntimeError(f'event "{name}" was triggered, but no service runs that could take it')
    sink(name, payload)
