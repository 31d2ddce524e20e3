"""Loads a folder of handlers and writes what came of it as JSON: run as a program of its own.

Plugin code may print, hang, change the process or end it; here it harms nobody.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader


def main(folder: str, output: str) -> None:
    """Write to `output`: {"hooks": […], "problems": […]}."""
    loaded = loader.load([Path(folder)], HOME)
    content = {
        "hooks": [
            {
                "type": hook.type.name,
                "name": hook.name,
                "file": str(hook.source.path),
                "line": hook.source.line,
                "any_type": hook.any_type,
                "misfit": hook.misfit,
                "is_async": hook.is_async,
                "style": hook.style,
            }
            for hook in loaded.table
        ],
        "problems": [{"file": str(problem.path), "text": problem.text} for problem in loaded.problems],
    }
    Path(output).write_text(json.dumps(content))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
