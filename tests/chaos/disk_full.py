"""The disk of the embedded store is full, and then is not."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from coprocess.gateways.tyk.wire import Object
from tests.chaos.load import HANG_S, Figures, Load, stamp_is
from tests.objects import make_object, make_request
from tests.serve_process import ServeProcess, stamping, write
from tests.server import Client

STORING = """
from coprocess import Pre, StoreError, store

@Pre
def keep(request):
    try:
        store.set("key", request.text)
        request.headers["X-Ended"] = "stored"
    except StoreError as error:
        request.headers["X-Ended"] = str(error)

@Pre
def kept(request):
    request.headers["X-Kept"] = store.get_text("key") or ""
"""

_DISK_MIB = 8


def can_have_a_small_disk(place: Path) -> bool:
    """Whether this system lets an ordinary user mount one; `place` is a folder."""
    with suppress(OSError):
        return subprocess.run(_small_disk(place, "true"), capture_output=True, check=False).returncode == 0
    return False


def _small_disk(place: Path, *command: str) -> list[str]:
    """Run `command` where `place` is a disk of its own, which nobody else sees."""
    script = f'mount -t tmpfs -o size={_DISK_MIB}m none "$0" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(place), *command]


def trial(folder: Path, engine: str) -> Figures:
    """Writes fail with what is wrong, reads go on, so do hooks without storage; and all does, given space."""
    handlers, data = write(folder / "handlers", a=STORING, good=stamping("good")), folder / "data"
    data.mkdir()
    ends: Counter[str] = Counter()

    def keep(client: Client, text: bytes) -> str:
        message = make_object(hook_name="keep", request=make_request(body=text))
        ended: str = client.dispatch(message).request.set_headers["X-Ended"]
        ends["stored" if ended == "stored" else "StoreError"] += 1
        return ended

    def kept(client: Client) -> str:
        reply: Object = client.dispatch(make_object(hook_name="kept"))
        return reply.request.set_headers["X-Kept"]

    with (
        ServeProcess(
            handlers, f"--engine={engine}", f"--data-dir={data}", prefix=_small_disk(data)
        ) as service,
        service.client() as client,
        Load(service.address, make_object(hook_name="stamp"), judge=stamp_is("good"), pause_s=0.002) as good,
    ):
        seen = Path(f"/proc/{service.process.pid}/root{data}")
        assert keep(client, b"before") == "stored"
        with (seen / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        until_s = time.monotonic() + HANG_S
        while (ended := keep(client, b"x" * 10_000)) == "stored":
            assert time.monotonic() < until_s, "the disk is full, and writing succeeds"
        assert "No space left on device" in ended, ended
        good.wait_for(50)
        assert kept(client), "what was stored cannot be read while the disk is full"
        (seen / "filler").unlink()
        freed_s = time.monotonic()
        while keep(client, b"after") != "stored":
            assert time.monotonic() < freed_s + HANG_S, "there is space, and writing fails"
            time.sleep(0.02)
        recovery_s = time.monotonic() - freed_s
        assert kept(client) == "after"
        good.wait_for(20)
    assert service.wait() == 0
    good.check(70)
    return {
        "engine": engine,
        "ends": dict(sorted(ends.items())),
        "error": ended.replace(str(folder), "FOLDER"),
        "recovery_s": round(recovery_s, 2),
        "good_calls": good.answered,
        "good_failed": len(good.errors),
    }
