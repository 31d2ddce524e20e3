"""Traces of Kong's events, from `coprocess kong serve`."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.collector import Collector
from tests.kong.test_commands import KONG, connect
from tests.server import PATIENCE_S

PLUGIN = """
class Plugin:
    def __init__(self, config):
        pass

    def access(self, kong):
        kong.request.get_method()
"""


def test_events_are_served_with_traces_on_and_each_has_its_spans(tmp_path: Path) -> None:
    """Once, each was refused: their methods were read as gRPC's."""
    plugin = tmp_path / "p.py"
    plugin.write_text(PLUGIN)
    with Collector() as collector:
        environment = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "COPROCESS_TRACES": "otlp",
        }
        words = [*KONG, "serve", str(plugin), "-p", str(tmp_path)]
        with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                kong = connect(tmp_path / "p.socket", process)
                assert kong.run(kong.start()) == [("kong.request.get_method", [])]
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()
                kong.close()
        spans = {span.name: span for span in collector.spans}
    assert spans["plugin.HandleEvent"].attributes["coprocess.hook.name"] == "p"
    assert spans["access p"].parent_id == spans["plugin.HandleEvent"].span_id
