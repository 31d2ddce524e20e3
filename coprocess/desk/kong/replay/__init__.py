"""Recordings of a real Kong, played again: each frame and each result must come out as it was recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coprocess.desk.kong.replay.player import Player
from coprocess.desk.kong.replay.recording import read_content, recording_of
from coprocess.desk.kong.simulator.exchange import NotSimulated
from coprocess.desk.kong.simulator.lua import LuaError, NeedMore
from coprocess.desk.replay import NO_RECORDING, ReplayReport, in_words
from coprocess.errors import ConfigError

__all__ = ["ReplayReport", "replay", "replay_content"]

_NO_RECORDING = (*NO_RECORDING, NotSimulated, LuaError, NeedMore, StopIteration)


def replay(recordings: Iterable[Path | str]) -> ReplayReport:
    """Play each recording against a fresh simulated Kong.

    What differs from run to run (dates, latencies, ids of a run, order in maps) need not be the same, all
    else must. What cannot be read, or holds what is not simulated, is reported as a difference is.
    """
    replayed: list[str] = []
    problems: list[str] = []
    left_out: list[str] = []
    for path in map(Path, recordings):
        try:
            content = read_content(path)
            name = content["name"]
            found = replay_content(content, left_out)
        except _NO_RECORDING as error:
            why = in_words(error, path, (NotSimulated, LuaError))
            problems.append(f"{path.name}: cannot be replayed: {why}")
            continue
        if found is None:
            left_out.append(f"{name}: it tells of processes, which are not simulated")
            continue
        replayed.append(name)
        problems += [f"{name}: {text}" for text in found]
    return ReplayReport(tuple(replayed), tuple(problems), tuple(left_out))


def replay_content(content: dict[str, Any], left_out: list[str] | None = None) -> list[str] | None:
    """The differences of one recording; None where there is nothing to play.

    `left_out` takes what is missing, and may be, as the recording ended before it.
    """
    from coprocess.desk.kong.replay.tables import matrix_differences, variant_differences

    if "frames" in content:
        player = Player(recording_of(content))
        found = player.play()
        if left_out is not None:
            left_out += [f"{content['name']}: {text}" for text in player.notes]
        return found
    if "calls" in content:
        return list(matrix_differences(content["calls"]))
    if "variants" in content:
        return list(variant_differences(content["variants"]))
    if "query_runs_per_start" in content:
        return None
    raise ConfigError(
        f"a form that is not known, with {', '.join(sorted(content))}. Expected frames, calls or variants"
    )
