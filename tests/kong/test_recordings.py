"""Given Kong's recorded frames, the plugin server answers as kong-pdk did, but where that is a fault."""

from __future__ import annotations

import base64
import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.plugin import PluginOptions
from tests.kong.recorded import recordings
from tests.kong.server import Kong, Served, serving

OTHERWISE: dict[str, str] = tomllib.loads((Path(__file__).parent / "otherwise.toml").read_text())
#: They take seconds, of which nothing is seen here.
SLOW = {"slow-2s", "parallel", "parallel-two-workers", "client-abort", "step-crosses", "killed-restart"}
#: The server was another process after some frames.
RESTARTED = {"ext-restart", "killed-mid", "killed-restart", "two-configs"}


def test_recorded_frames_are_answered_as_kong_pdk_did(tmp_path: Path) -> None:
    differing, seen = {}, 0
    for case in recordings():
        name = case["name"]
        if name.startswith("odd-") or name in SLOW | RESTARTED:
            continue
        difference = "; ".join(differences(case, tmp_path))
        seen += 1
        if difference and name not in OTHERWISE:
            differing[name] = difference
    assert not differing
    assert seen >= 8


def differences(case: Any, folder: Path) -> Iterator[str]:
    with contextlib.ExitStack() as at_end:
        servers: dict[str, Served] = {}
        for name in {frame["name"] for frame in case["frames"]}:
            plugin = case["plugins"][name]
            options = PluginOptions(name, lua_style="--no-lua-style" not in (plugin["server_flags"] or ""))
            servers[name] = at_end.enter_context(serving(folder, plugin["source"], options))
        kongs: dict[tuple[str, int], Kong] = {}
        for frame in case["frames"]:
            key, raw = (frame["name"], frame["conn"]), frame.get("raw")
            if frame.get("event") == "connect":
                kongs[key] = kong = servers[frame["name"]].connect()
                at_end.callback(kong.close)
                kong.socket.settimeout(2)
            elif frame.get("event") == "eof" and frame["dir"] == "kong>py":
                kongs.pop(key).close()
            elif key not in kongs:
                continue  # What was sent into a connection that Kong had closed.
            elif frame.get("event") or not isinstance(raw, str):
                if raw is not None:
                    return  # It was cut.
            elif frame["dir"] == "kong>py":
                kongs[key].socket.sendall(base64.b64decode(raw))
            else:
                (expected,) = wire.Reader().feed(base64.b64decode(raw))
                try:
                    got = kongs[key].receive()
                except (OSError, EOFError) as error:
                    yield f"{expected} was expected, and nothing came: {error!r}"
                    return
                if without_time(got) != without_time(expected):
                    yield f"{got} instead of {expected}"
                    return
        for kong in kongs.values():
            kong.socket.settimeout(0.02)
            with contextlib.suppress(OSError, EOFError):
                yield f"{kong.receive()}, and nothing was expected"


def without_time(message: Any) -> Any:
    if isinstance(message[-1], dict):
        return [*message[:-1], {key: value for key, value in message[-1].items() if key != "StartTime"}]
    return message


@pytest.mark.parametrize("name", OTHERWISE)
def test_each_difference_has_its_reason(name: str) -> None:
    assert len(OTHERWISE[name]) > 10
