"""The collector of garbage goes through what there is in short steps."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from tests.objects import make_object
from tests.serve_process import ServeProcess, write

HANDLER = """
import gc
from coprocess import Pre, Request

@Pre
def tell(request: Request) -> None:
    request.headers["X-Thresholds"] = ",".join(map(str, gc.get_threshold()))
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python cuts the work itself")
def test_a_service_goes_through_little_at_a_time(tmp_path: Path) -> None:
    """With Python's own thresholds, 80,000 calls that wait held up all others for 14 ms, again and again."""
    with ServeProcess(write(tmp_path / "handlers", tell=HANDLER)) as service, service.client() as client:
        reply = client.dispatch(make_object(hook_name="tell"))
    first, second, third = map(int, reply.request.set_headers["X-Thresholds"].split(","))
    usual = gc.get_threshold()
    assert first == usual[0]
    assert second < 10
    assert second * third == 100  # All is gone through as often as usual.
