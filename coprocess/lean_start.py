"""What a library imports where it is installed, and a service never uses: it takes memory, and time to start.

structlog imports rich, to show tracebacks in a terminal; our logs have them as plain text (`process.logs`).
"""

from __future__ import annotations

import sys

from coprocess.early_signals import is_serve


def _import_structlog() -> None:
    """Without rich, in `coprocess serve`. Who imports rich afterwards gets it."""
    if not is_serve() or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # how Python is told that there is none
    try:
        import structlog  # noqa: F401 - for the next import
    finally:
        del sys.modules["rich"]


_import_structlog()
