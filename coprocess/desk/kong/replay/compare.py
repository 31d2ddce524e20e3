"""Differences between what Kong did and what the simulated one does, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from coprocess.bounded import repr_of
from coprocess.desk import trees
from coprocess.desk.kong.replay.recording import Cut
from coprocess.desk.kong.simulator.http import Headers
from coprocess.desk.trees import ABSENT, Difference, Judge, TreePath, leaf

#: What differs from run to run, wherever it is in a value.
RUN_KEYS = frozenset({"created_at", "updated_at", "__seq__", "__ws_id", "ws_id"})
#: The same, in the message of `kong.log.serialize`.
_SERIALIZED_RUN_KEYS = RUN_KEYS | {
    *("latencies", "started_at", "size", "balancer_start", "balancer_start_ns", "balancer_latency"),
    *("balancer_latency_ns", "workspace", "x-kong-proxy-latency", "x-kong-upstream-latency"),
    *("x-kong-response-latency",),
}
#: Headers whose value differs from run to run.
_RUN_HEADERS = frozenset(
    {b"date", b"x-kong-upstream-latency", b"x-kong-proxy-latency", b"x-kong-response-latency"}
)


def frame_differences(recorded: Any, made: Any) -> Iterator[str]:
    """Of two requests of Kong; text and bin, whole numbers and others are told apart."""
    method = recorded[2] if isinstance(recorded, list) and len(recorded) > 2 else None
    if method == "plugin.StartInstance" and isinstance(made, list) and made[2:3] == [method]:
        recorded, made = _with_config(recorded), _with_config(made)
    yield from differences(recorded, made)


def _with_config(message: list[Any]) -> list[Any]:
    argument = dict(message[3][0])
    argument["Config"] = json.loads(argument["Config"])
    if "__key__" in argument["Config"]:
        # Its last part is the workspace's id.
        argument["Config"]["__key__"] = argument["Config"]["__key__"].rpartition(":")[0]
    return [*message[:3], [argument]]


def differences(recorded: Any, made: Any, *, ignored: frozenset[str] = RUN_KEYS) -> Iterator[str]:
    """By place. Maps have no order; values of `ignored` keys only have to be there."""
    yield from map(str, trees.differences(recorded, made, _judge(ignored)))


def _judge(ignored: frozenset[str]) -> Judge:
    def judge(path: TreePath, recorded: Any, made: Any) -> Iterable[Difference] | None:
        if ABSENT in (recorded, made):
            return None
        if path and path[-1] in ignored:
            return ()
        if isinstance(recorded, Cut):
            data = made.encode("utf-8", "surrogateescape") if isinstance(made, str) else made
            is_same = isinstance(data, bytes) and recorded.fits(data)
            return () if is_same else (Difference(path, recorded, made),)
        if isinstance(recorded, str) and isinstance(made, str) and '"workspace_name"' in recorded:
            return _of_serialized(path, recorded, made)
        return None

    return judge


def _of_serialized(path: TreePath, recorded: str, made: str) -> Iterable[Difference]:
    try:
        one, other = json.loads(recorded), json.loads(made)
    except ValueError:
        return leaf(path, recorded, made)
    return trees.differences(one, other, _judge(frozenset(_SERIALIZED_RUN_KEYS)), path)


def header_differences(recorded: Headers, made: Headers) -> Iterator[str]:
    """Values of one name keep their order; names have none, as Lua's tables."""
    one, other = _by_name(recorded), _by_name(made)
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            shown = name.decode("latin-1")
            yield f"header {shown}: expected {one.get(name)}, got {other.get(name)}"


def _by_name(headers: Headers) -> dict[bytes, list[bytes]]:
    return {
        name: [b""] * len(values) if name in _RUN_HEADERS else values
        for name, values in headers.multi(0).items()
    }


def body_differences(recorded: bytes | Cut, made: bytes) -> Iterator[str]:
    """JSON of the same length may have its keys in another order."""
    if isinstance(recorded, Cut):
        # Where a recording cuts a client's body, it does not keep its beginning.
        if len(made) not in recorded.sizes:
            yield f"body: expected {recorded.sizes[0]} bytes, got {len(made)}"
        return
    if recorded == made:
        return
    if len(recorded) == len(made) and Counter(recorded) == Counter(made):
        try:
            if json.loads(recorded) == json.loads(made):
                return
        except ValueError:
            pass
    yield f"body: expected {repr_of(recorded, 120)}, got {repr_of(made, 120)}"
