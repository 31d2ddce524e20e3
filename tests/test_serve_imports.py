"""What only developers use, a service does not load: neither at its start nor with its calls."""

from __future__ import annotations

from pathlib import Path

from tests.objects import make_object
from tests.serve_process import ServeProcess, write

HANDLER = """
import sys
from coprocess import Pre

ROOMS = ("coprocess.desk", "coprocess.scaffold", "coprocess.testing")

@Pre
def loaded(request):
    request.headers["X-Loaded"] = " ".join(name for name in sys.modules if name.startswith(ROOMS)) or "none"
"""


def test_serve_loads_nothing_of_the_desk(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", hooks=HANDLER)
    with ServeProcess(handlers, real_start=True) as service, service.client() as client:
        reply = client.dispatch(make_object(hook_name="loaded"))
        assert reply.request.set_headers["X-Loaded"] == "none"
