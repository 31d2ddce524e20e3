"""The end of processes that a handler forks, where they come out of the handler.

Such a child has one thread, and holds the service's loop and queues in common with its parent: it must not
go on as the service. `multiprocessing` never lets it come that far.
"""

from __future__ import annotations

import os

from coprocess.api.context import CallContext, current_call


class Origin:
    """In a forked child: the call whose handler forked it."""

    __slots__ = ("call",)

    def __init__(self) -> None:
        self.call: CallContext | None = None
        os.register_at_fork(after_in_child=self._remember)

    def _remember(self) -> None:
        # What runs in the child is the thread that forked.
        self.call = current_call.get()


origin = Origin()


def end_child() -> None:
    """End this process, and tell it."""
    text = "coprocess: a process that a handler forked came out of the handler, and was ended. Use os._exit"
    os.write(2, f"{text}\n".encode())
    os._exit(os.EX_SOFTWARE)
