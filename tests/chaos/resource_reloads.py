"""Resources, while handlers are reloaded under load: what is opened is closed, once, after its last use."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coprocess.gateways.tyk.wire import Object
from tests.chaos.load import Figures, Load
from tests.objects import make_object
from tests.serve_process import ServeProcess, write

#: Of each kind of resource one. `state` of one tells what is closed of it, and of what it is made of.
RESOURCES = """
import asyncio, os
from coprocess import App, Pre

app = App()
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Held:
    def __init__(self, name, *of):
        self.name, self.of, self.closed = name, of, False
        os.write(told, f"opened {{name}}\\n".encode())

    def close(self):
        assert not self.closed, self.name
        self.closed = True
        os.write(told, f"closed {{self.name}}\\n".encode())

    @property
    def state(self):
        mine = ["closed " + self.name] * self.closed
        return ",".join(mine + [each.state for each in self.of if each.state])


@app.resource
def pool():
    held = Held("pool")
    yield held
    held.close()


@app.resource
async def client(pool):
    held = Held("client", pool)
    await asyncio.sleep(0)
    yield held
    held.close()


@app.resource(scope="call")
def work(pool):
    held = Held("work", pool)
    yield held
    held.close()


@app.resource(scope="call")
async def lease(client):
    held = Held("lease", client)
    await asyncio.sleep(0)
    yield held
    held.close()
"""

_HANDLERS = """
@Pre
def sync_hook(request, work):
    request.headers["X-State"] = work.state or "open"


@Pre
async def async_hook(request, lease):
    await asyncio.sleep(0.002)
    request.headers["X-State"] = lease.state or "open"
"""

OF_APP, OF_CALL = ("pool", "client"), ("work", "lease")


def counted(told: Path) -> dict[str, tuple[int, int]]:
    """How often each resource was opened, and closed."""
    counts = Counter(told.read_text().splitlines())
    return {name: (counts[f"opened {name}"], counts[f"closed {name}"]) for name in (*OF_APP, *OF_CALL)}


def check(told: Path, loads: int) -> dict[str, int]:
    """All that was opened is closed, those of an App once for each load. Gives how many there were."""
    counts = counted(told)
    for name, (opened, closed) in counts.items():
        assert opened == closed, f"{name}: opened {opened} times, closed {closed} times"
    for name in OF_APP:
        assert counts[name][0] == loads, f"{name}: opened {counts[name][0]} times, by {loads} loads"
    return {name: opened for name, (opened, _) in counts.items()}


def judge(sent: Any, reply: Object) -> None:
    state = reply.request.set_headers["X-State"]
    assert state == "open", f"a handler ran with {state}"


def resources(told: Path) -> str:
    """Their code; what is opened and closed is written to `told`."""
    return RESOURCES.format(told=str(told))


def trial(
    folder: Path, engine: str, reloads: int, *, pause_s: float = 0.0, flags: Sequence[str] = ()
) -> Figures:
    """Reloads, a rollback in each tenth place; calls all the time, each client pausing between two."""
    told = folder / "told"
    handlers = write(folder / "handlers", a=resources(told) + _HANDLERS)
    since_s = time.monotonic()
    rollbacks = 0
    with (
        ServeProcess(handlers, f"--engine={engine}", *flags) as service,
        Load(service.address, make_object(hook_name="sync_hook"), judge=judge, pause_s=pause_s) as quick,
        Load(service.address, make_object(hook_name="async_hook"), judge=judge, pause_s=pause_s) as waiting,
    ):
        for number in range(1, reloads + 1):
            quick.wait_for(1)
            waiting.wait_for(1)
            command = "/rollback" if number % 10 == 0 else "/reload"
            rollbacks += command == "/rollback"
            status, text = service.http("POST", command)
            assert status == 200, text
        quick.wait_for(2)
        waiting.wait_for(2)
        assert service.end() == 0
    for load in (quick, waiting):
        assert not load.wrong, load.wrong[:5]
    opened = check(told, reloads + 1)
    return {
        "engine": engine,
        "reloads": reloads,
        "rollbacks": rollbacks,
        "calls": quick.answered + waiting.answered,
        "opened_and_closed": opened,
        "took_s": round(time.monotonic() - since_s, 1),
    }
