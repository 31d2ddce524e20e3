"""What a forked child does with descriptors that are its parent's."""

from __future__ import annotations

import os
from collections.abc import Iterable


def let_go(descriptors: Iterable[int]) -> None:
    """Have them lead nowhere.

    Replaced, not closed: whoever still has a number must not close what gets it next.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in descriptors:
            os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)
