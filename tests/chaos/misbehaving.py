"""Handlers that do what handlers must not do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grpc

from tests.chaos.load import HANG_S, Figures, Load, settle, stamp_is, thread_count
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import status_of

BAD = """
import asyncio, os, sys, threading
from coprocess import Pre, respond

for_ever = threading.Event()

@Pre
def raises(request): raise ValueError("no")

@Pre
async def raises_async(request): raise ValueError("no")

@Pre(timeout=0.2)
def blocks(request): for_ever.wait()

@Pre(timeout=0.2)
async def blocks_async(request): await asyncio.Event().wait()

@Pre(timeout=0.2)
async def will_not_be_cancelled(request):
    while not for_ever.is_set():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            return

@Pre
def no_such_memory(request): bytearray(1 << 62)

@Pre
def much_memory(request):
    hoard = []
    for _ in range(64):
        hoard.append(bytearray(1 << 20))
    raise MemoryError

@Pre
def exits(request): sys.exit(3)

@Pre
async def exits_async(request): sys.exit(3)

@Pre
def interrupts(request): raise KeyboardInterrupt

@Pre
async def interrupts_async(request): raise KeyboardInterrupt

@Pre
def stops_generators(request): raise GeneratorExit

@Pre
def returns_object(request): return object()

@Pre
def returns_number(request): return 42

@Pre
def responds_nonsense(request): return respond(7, "seven")

@Pre
def sets_nonsense(request): request.headers["X"] = object()

@Pre
def sets_url(request): request.url = "no slash"

@Pre
def forks(request):
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    request.headers["X-Stamp"] = "forked"

@Pre
def recurses(request): recurses(request)

@Pre
async def recurses_async(request): await recurses_async(request)
"""

INTERNAL, TOO_LONG, OK = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.OK,
)

EXPECTED = {
    "raises": INTERNAL,
    "raises_async": INTERNAL,
    "blocks": TOO_LONG,
    "blocks_async": TOO_LONG,
    "will_not_be_cancelled": TOO_LONG,
    "no_such_memory": INTERNAL,
    "much_memory": INTERNAL,
    "exits": INTERNAL,
    "exits_async": INTERNAL,
    "interrupts": INTERNAL,
    "interrupts_async": INTERNAL,
    "stops_generators": INTERNAL,
    "returns_object": INTERNAL,
    "returns_number": INTERNAL,
    "responds_nonsense": INTERNAL,
    "sets_nonsense": INTERNAL,
    "sets_url": INTERNAL,
    "forks": OK,
    "recurses": INTERNAL,
    "recurses_async": INTERNAL,
}


def trial(folder: Path, engine: str, each: int) -> Figures:
    """`each` calls of each bad handler at one time, beside good calls; one kind after the other."""
    handlers = write(folder / "handlers", bad=BAD, good=stamping("good"))
    ends: dict[str, dict[str, int]] = {}
    with (
        ServeProcess(handlers, f"--engine={engine}") as service,
        service.client() as client,
        Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002) as good,
    ):
        for hook, expected in EXPECTED.items():
            calls = [client.future(make_object(hook_name=hook), timeout_s=HANG_S) for _ in range(each)]
            counted: Counter[str] = Counter()
            for call in calls:
                error = call.exception(timeout=2 * HANG_S)
                code, text = (OK, "") if error is None else status_of(error)
                assert code is expected, f"{hook} ended with {code.name}: {text}"
                assert code is OK or hook in text, f"the status of {hook} does not name it: {text}"
                counted[code.name] += 1
            ends[hook] = dict(counted)
            good.wait_for(5)
        assert service.process.poll() is None, "the service has ended"
        # Those that block still do. All others have let go of their thread.
        threads = settle(lambda: thread_count(service.process.pid), 60 + 2 * each)
        assert threads <= 60 + 2 * each, f"{threads} threads"
    good.check(5 * len(EXPECTED))
    return {
        "engine": engine,
        "kinds": len(EXPECTED),
        "calls_of_each": each,
        "ends": ends,
        "good_calls": good.answered,
        "good_failed": len(good.errors),
        "threads_at_the_end": threads,
    }
