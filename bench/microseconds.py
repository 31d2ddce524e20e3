"""Where the microseconds of one call go, in this process and without a transport.

    microseconds.py

prints the time of each step of a Pre hook's call with a 256-byte body: the best of several rounds, so the
figures are those of a warm processor. Each step includes those that are indented below it.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from objects import pre_object

from coprocess import Pre, Request
from coprocess.api.declarations import collecting
from coprocess.api.moments import HookType
from coprocess.errors import Status
from coprocess.gateways.tyk import guard
from coprocess.gateways.tyk.compat import decorators as embedded
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import DISPATCH, Object
from coprocess.loading.declared import hooks_of
from coprocess.loading.hooks import HookTable
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engine import Metadata, Rpc

CALLS, ROUNDS = 20_000, 7


class NoTransport(Rpc):
    __slots__ = ()

    def __init__(self, payload: bytes) -> None:
        self.method = DISPATCH
        self.payload = payload

    def respond(self, reply: bytes) -> None:
        pass

    def fail(self, status: Status, message: str) -> None:
        raise RuntimeError(message)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None


def microseconds(step: Callable[[], object]) -> float:
    return min(timeit.repeat(step, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def main() -> None:
    with collecting() as declarations:

        @Pre
        def native(request: Request) -> None:
            request.headers["myheader"] = "myvalue"

        @embedded.Pre
        def old(request, session, spec):
            request.add_header("myheader", "myvalue")
            return request, session

    table = HookTable(hook for declaration in declarations for hook in hooks_of(declaration))
    dispatcher = Dispatcher(table)
    service = Service(dispatcher, ServiceOptions())
    payload, old_payload = pre_object("native"), pre_object("old")

    def fresh() -> Object:
        return Object.FromString(payload)

    def bare() -> bytes:
        message = fresh()
        message.request.set_headers["myheader"] = "myvalue"
        return message.SerializeToString()

    def trimmed() -> None:
        guard.trim(fresh(), HookType.Pre)

    def checked() -> None:
        guard.check(dispatcher.open_dispatch(payload))

    def handled() -> None:
        native(dispatcher.open_dispatch(payload).request)

    parse = microseconds(fresh)
    opened = microseconds(lambda: dispatcher.open_dispatch(payload))
    rows = [
        ("Service.handle, native style", microseconds(lambda: service.handle(NoTransport(payload)))),
        ("Service.handle, embedded style", microseconds(lambda: service.handle(NoTransport(old_payload)))),
        ("  open, run, serialize", microseconds(lambda: dispatcher.open_dispatch(payload).run())),
        ("    open: parse and find the hook", opened),
        ("      parse", parse),
        ("    the view and the handler", microseconds(handled) - opened),
        ("    reply guard", microseconds(checked) - opened),
        ("    trim", microseconds(trimmed) - parse),
        ("for comparison: parse, set a header, serialize, by hand", microseconds(bare)),
    ]
    for label, time_us in rows:
        print(f"{label:58s}{time_us:6.2f} µs")


if __name__ == "__main__":
    main()
