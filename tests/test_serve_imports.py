"""What a service does not use, it does not load: neither at its start nor with its calls."""

from __future__ import annotations

from pathlib import Path

from tests.objects import make_object
from tests.serve_process import ServeProcess, write

HANDLER = """
import sys
from coprocess import Pre

ROOMS = ("coprocess.desk", "coprocess.scaffold", "coprocess.testing", "rich")

@Pre
def loaded(request):
    request.headers["X-Loaded"] = " ".join(name for name in sys.modules if name.startswith(ROOMS)) or "none"

@Pre
def needs_rich(request):
    from rich.text import Text
    request.headers["X-Text"] = Text("loaded").plain
"""


def test_serve_loads_nothing_of_the_desk_and_no_rich(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", hooks=HANDLER)
    with ServeProcess(handlers, real_start=True) as service, service.client() as client:
        reply = client.dispatch(make_object(hook_name="loaded"))
        assert reply.request.set_headers["X-Loaded"] == "none"
        reply = client.dispatch(make_object(hook_name="needs_rich"))
        assert reply.request.set_headers["X-Text"] == "loaded"
