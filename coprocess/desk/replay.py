"""What comes of playing recordings of a real gateway through a simulated one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coprocess.errors import ConfigError

#: What comes of reading a document that is of another form than recordings are.
NO_RECORDING = (ConfigError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What was played, and each difference found: recording, part, expected, got."""

    replayed: tuple[str, ...]
    problems: tuple[str, ...]
    #: Of what nothing can be played, and why.
    left_out: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.replayed) and not self.problems

    def __str__(self) -> str:
        summary = f"{len(self.replayed)} recordings replayed, {len(self.problems)} differences"
        return "\n".join([*self.problems, *(f"left out: {each}" for each in self.left_out), summary])


def in_words(error: Exception, path: Path | None = None, told: tuple[type[Exception], ...] = ()) -> str:
    """Why a recording cannot be read. Those of `told` say it themselves, as ConfigError and ValueError do.

    `path` is the recording's, where the caller names it already.
    """
    if isinstance(error, (ConfigError, ValueError, *told)):
        return str(error).removeprefix(f"{path}: ")
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, (TypeError, AttributeError)):
        return "it has not the form of a recording"
    return f"{type(error).__name__}: {error}"
