"""The least that a worker serves which takes the place of another: what those beside it serve.

Where the files are broken they serve on with the handlers of before. A new process has none of before: it
would answer its share of the calls with errors, sooner than the others answer, and so draw more of them.
"""

from __future__ import annotations

from typing import NamedTuple

from coprocess.loading.loaded import Loaded


class Least(NamedTuple):
    """As the front tells it to a worker: by text."""

    hooks: int
    problems: int

    def __str__(self) -> str:
        return f"{self.hooks},{self.problems}"

    @classmethod
    def of(cls, text: str | None) -> Least | None:
        """The inverse of `str`."""
        if text is None:
            return None
        hooks, problems = map(int, text.split(","))
        return cls(hooks, problems)

    def allows(self, loaded: Loaded) -> bool:
        """Whether it is enough. Hooks that are gone with nothing wrong were taken away by somebody."""
        problems = len(loaded.problems)
        return not problems or (problems <= self.problems and len(loaded.table) >= self.hooks)
