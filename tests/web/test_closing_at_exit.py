"""Resources of a WSGI app, as its process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HANDLERS = """
from contextlib import contextmanager
from coprocess import App, Pre

app = App()

@app.resource
@contextmanager
def db():
    yield "open"
    print("closed")

@Pre
def any_request(request):
    pass
"""
PROGRAM = """
from pathlib import Path
from coprocess.wsgi import Middleware

asked = Middleware(lambda environ, start: [b""], handlers=Path("handlers"))
asked.open()
"""


def test_resources_are_closed_where_no_thread_can_be_started_any_more(tmp_path: Path) -> None:
    """Once, from Python 3.12 on, they were left open: each was closed by a thread of its own."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "app.py").write_text(HANDLERS)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.splitlines()[-1:] == ["closed"], ran.stderr
