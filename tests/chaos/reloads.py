"""Reload under full load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coprocess.gateways.tyk.wire import Object
from tests.chaos.load import Figures, Load
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write


def trial(
    folder: Path, engine: str, reloads: int, *, broken_every: int, flags: Sequence[str] = ()
) -> Figures:
    """No call fails, and none that begins after a good swap runs older code."""
    published, written = 0, {0}
    handlers = write(folder / "handlers", a=stamping("0"))

    def judge(sent: Any, reply: Object) -> None:
        ran = int(reply.request.set_headers["X-Stamp"])
        assert ran in written, f"broken version {ran} ran"
        assert ran >= sent, f"version {ran} ran after version {sent} had taken over"

    broken = 0
    with (
        ServeProcess(handlers, f"--engine={engine}", *flags) as service,
        Load(
            service.address,
            make_object(hook_name="stamp"),
            connections=4,
            before=lambda: published,
            judge=judge,
        ) as load,
    ):
        load.wait_for(20)
        since_s = time.monotonic()
        for number in range(1, reloads + 1):
            if number % broken_every == 0:
                write(handlers, a=stamping(str(number)) + "\nraise RuntimeError('broken')\n")
                assert service.http("POST", "/reload")[0] == 409
                broken += 1
            else:
                write(handlers, a=stamping(str(number)))
                written.add(number)
                status, text = service.http("POST", "/reload")
                assert status == 200, text
                published = number
            load.wait_for(5)
        took_s = time.monotonic() - since_s
    load.check(5 * reloads)
    return {
        "engine": engine,
        "reloads": reloads,
        "broken": broken,
        "calls": load.answered,
        "failed": len(load.errors),
        "old_code_after_a_swap": len(load.wrong),
        "took_s": round(took_s, 1),
    }
