"""Recordings of a real Kong, played again: each frame and each result must come out as it was recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprocess.desk.kong.replay.player import Player
from coprocess.desk.kong.replay.recording import read_content, recording_of
from coprocess.desk.kong.simulator.exchange import NotSimulated
from coprocess.desk.kong.simulator.lua import LuaError, NeedMore
from coprocess.errors import ConfigError

__all__ = ["ReplayReport", "replay", "replay_content"]

#: What comes of reading a document that is of another form.
_NO_RECORDING = (
    *(ConfigError, NotSimulated, LuaError, NeedMore, ValueError, KeyError, IndexError),
    *(TypeError, AttributeError, StopIteration, OverflowError),
)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What was played, and each difference found."""

    replayed: tuple[str, ...]
    problems: tuple[str, ...]
    #: Of what nothing can be played, and why.
    left_out: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.replayed) and not self.problems

    def __str__(self) -> str:
        summary = f"{len(self.replayed)} recordings replayed, {len(self.problems)} differences"
        left_out = [f"left out: {each}" for each in self.left_out]
        return "\n".join([*self.problems, *left_out, summary])


def replay(recordings: Iterable[Path | str]) -> ReplayReport:
    """Play each recording against a fresh simulated Kong.

    What differs from run to run (dates, latencies, ids of a run, order in maps) need not be the same, all
    else must. What cannot be read, or holds what is not simulated, is reported as a difference is.
    """
    replayed, problems, left_out = [], [], []
    for path in map(Path, recordings):
        try:
            content = read_content(path)
            name = content["name"]
            found = replay_content(content)
        except _NO_RECORDING as error:
            problems.append(f"{path.name}: cannot be replayed: {_words(error)}")
            continue
        if found is None:
            left_out.append(f"{name}: it tells of processes, which are not simulated")
            continue
        replayed.append(name)
        problems += [f"{name}: {text}" for text in found]
    return ReplayReport(tuple(replayed), tuple(problems), tuple(left_out))


def replay_content(content: dict[str, Any]) -> list[str] | None:
    """The differences of one recording; None where there is nothing to play."""
    from coprocess.desk.kong.replay.tables import matrix_differences, variant_differences

    if "frames" in content:
        return Player(recording_of(content)).play()
    if "calls" in content:
        return list(matrix_differences(content["calls"]))
    if "variants" in content:
        return list(variant_differences(content["variants"]))
    if "query_runs_per_start" in content:
        return None
    raise ConfigError(
        f"a form that is not known, with {', '.join(sorted(content))}. Expected frames, calls or variants"
    )


def _words(error: Exception) -> str:
    told = (ConfigError, NotSimulated, LuaError, ValueError)
    return str(error) if isinstance(error, told) else f"{type(error).__name__}: {error}"
