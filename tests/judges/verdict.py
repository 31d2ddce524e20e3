"""What a judge says."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    passed: int
    failed: int
    #: What the judge said of those that failed.
    text: str
