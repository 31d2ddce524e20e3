"""Given Kong's recorded frames, the plugin server answers as kong-pdk did, but where that is a fault."""

from __future__ import annotations

import base64
import contextlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import wire
from coprocess.gateways.kong.plugin import PluginOptions
from tests.kong.recorded import recordings
from tests.kong.server import Kong, Served, serving
from tests.server import PATIENCE_S

OTHERWISE: dict[str, str] = tomllib.loads((Path(__file__).parent / "otherwise.toml").read_text())
#: They take seconds, of which nothing is seen here.
SLOW = {"slow-2s", "parallel", "parallel-two-workers", "client-abort", "step-crosses"}


def test_recorded_frames_are_answered_as_kong_pdk_did(tmp_path: Path) -> None:
    differing, seen = {}, 0
    for case in recordings():
        name = case["name"]
        if name.startswith("odd-") or name in SLOW:
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
        ends: dict[str, contextlib.ExitStack] = {}
        kongs: dict[tuple[str, int], Kong] = {}
        #: By the recorded ones, which mean nothing to Kong. Events that are refused have one here, too, and
        #: instances have those by which none of a server before is meant, where kong-pdk counts from 0.
        event_ids: dict[Any, Any] = {}
        instance_ids: dict[Any, Any] = {}
        for frame in case["frames"]:
            name = frame["name"]
            key, raw = (name, frame["conn"]), frame.get("raw")
            if frame.get("event") == "connect":
                if name not in servers:
                    ends[name] = at_end.enter_context(contextlib.ExitStack())
                    servers[name] = ends[name].enter_context(served(case["plugins"][name], name, folder))
                kongs[key] = kong = servers[name].connect()
                at_end.callback(kong.close)
                kong.socket.settimeout(PATIENCE_S)
            elif frame.get("event") == "eof" and frame["dir"] == "py>kong" and key in kongs:
                # The server's end: the next connection is to another process.
                for ended in [each for each in kongs if each[0] == name]:
                    yield from unexpected(kongs[ended])
                    kongs.pop(ended).close()
                del servers[name]
                ends[name].close()
            elif frame.get("event") == "eof" and frame["dir"] == "kong>py":
                if key in kongs:
                    kongs.pop(key).close()
            elif key not in kongs:
                continue  # What was sent into a connection that Kong had closed.
            elif frame.get("event") or not isinstance(raw, str):
                if raw is not None:
                    return  # It was cut.
            elif frame["dir"] == "kong>py":
                kongs[key].socket.sendall(with_ids_of(base64.b64decode(raw), event_ids, instance_ids))
            else:
                (expected,) = wire.Reader().feed(base64.b64decode(raw))
                try:
                    got = kongs[key].receive()
                except (OSError, EOFError) as error:
                    yield f"{expected} was expected, and nothing came: {error!r}"
                    return
                if event_id_of(expected) is not None and event_id_of(got) is not None:
                    event_ids[event_id_of(expected)] = event_id_of(got)
                if is_instance(expected) and is_instance(got):
                    instance_ids[expected[-1]["Id"]] = got[-1]["Id"]
                if compared(got) != compared(expected):
                    yield f"{got} instead of {expected}"
                    return
        for kong in kongs.values():
            yield from unexpected(kong)


def unexpected(kong: Kong) -> Iterator[str]:
    kong.socket.settimeout(0.02)
    with contextlib.suppress(OSError, EOFError):
        yield f"{kong.receive()}, and nothing was expected"


def served(plugin: Any, name: str, folder: Path) -> contextlib.AbstractContextManager[Served]:
    options = PluginOptions(name, lua_style="--no-lua-style" not in (plugin["server_flags"] or ""))
    return serving(folder, plugin["source"], options)


def event_id_of(answer: Any) -> Any:
    return answer[-1].get("EventId") if isinstance(answer[-1], dict) else None


def is_instance(answer: Any) -> bool:
    return isinstance(answer[-1], dict) and "Id" in answer[-1]


def with_ids_of(raw: bytes, event_ids: dict[Any, Any], instance_ids: dict[Any, Any]) -> bytes:
    """A frame of Kong's, with the ids that this server gave to its event and its instance."""
    message = wire.Reader().feed(raw)[0]
    argument = message[3][0] if len(message) == 4 and message[3] else None
    if message[2] == wire.CLOSE_INSTANCE and argument in instance_ids:
        message[3][0] = instance_ids[argument]
    elif isinstance(argument, dict) and argument.get("EventId") in event_ids:
        argument["EventId"] = event_ids[argument["EventId"]]
    elif isinstance(argument, dict) and argument.get("InstanceId") in instance_ids:
        argument["InstanceId"] = instance_ids[argument["InstanceId"]]
    else:
        return raw
    return wire.pack_as_kong(message)


def compared(message: Any) -> Any:
    if isinstance(message[-1], dict):
        left_out = ("StartTime", "EventId", "Id")
        return [*message[:-1], {key: value for key, value in message[-1].items() if key not in left_out}]
    if len(message) == 4 and isinstance(message[2], str):
        # Its number is the server's own.
        return [*message[:2], re.sub(r"(no plugin instance #)\d+", r"\1", message[2]), *message[3:]]
    return message


@pytest.mark.parametrize("name", OTHERWISE)
def test_each_difference_has_its_reason(name: str) -> None:
    assert len(OTHERWISE[name]) > 10
