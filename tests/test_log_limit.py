"""Log entries by the thousand: some are written, and none goes uncounted."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from coprocess.runtime.log_limit import MOST, LimitedLog
from coprocess.transport.engines import EngineChoice
from tests.objects import make_object
from tests.serve_process import Line, ServeProcess, write
from tests.server import ENGINES

CODE = """
from coprocess import Pre

@Pre
def raises(request):
    if request.headers.get("Other"):
        raise ValueError("there")
    raise ValueError("here")
"""


def entries(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


def test_the_first_are_written_and_the_rest_is_counted() -> None:
    limited = LimitedLog(structlog.get_logger())
    with capture_logs() as lines:
        for number in range(MOST + 5):
            limited.write("warning", "a", "refused", reason=str(number))
        limited.write("error", "b", "failed", traceback=lambda: "ValueError")
        limited.end_window()
        assert [line.get("reason") for line in lines] == [*map(str, range(MOST)), None]
        limited.end_window(now=True)
        (rest,) = entries(lines, "more of the same")
        assert (rest["of"], rest["not_logged"], rest["reason"]) == ("refused", 5, "0")
        assert "exception" not in rest
        limited.end_window(now=True)
        limited.write("warning", "a", "refused", reason="again")
    assert lines[-1]["reason"] == "again"


def test_a_window_ends_by_itself() -> None:
    limited = LimitedLog(structlog.get_logger(), window_s=0.02)
    with capture_logs() as lines:
        for _ in range(MOST + 1):
            limited.write("warning", "a", "refused")
        while not entries(lines, "more of the same"):
            time.sleep(0.001)
            limited.end_window()
    assert lines[-1]["not_logged"] == 1


def test_nothing_goes_uncounted_whoever_writes() -> None:
    limited = LimitedLog(structlog.get_logger())
    begun = threading.Barrier(5)

    def write_many() -> None:
        begun.wait()
        for _ in range(500):
            limited.write("warning", "a", "refused")

    with capture_logs() as lines:
        threads = [threading.Thread(target=write_many) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        for _ in range(200):
            limited.end_window(now=True)
        for thread in threads:
            thread.join()
        limited.end_window(now=True)
    told = sum(line["not_logged"] for line in entries(lines, "more of the same"))
    assert len(entries(lines, "refused")) + told == 2000


def counted(metrics: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"^{name} (\S+)$", metrics, re.MULTILINE)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flood_of_refused_and_failing_calls(tmp_path: Path, engine: EngineChoice) -> None:
    handlers = write(tmp_path / "handlers", a=CODE)
    other = make_object(hook_name="raises")
    other.request.headers["Other"] = "1"
    with ServeProcess(handlers, f"--engine={engine}") as service, service.client() as client:
        for number in range(40):
            # Each with another text.
            for message in (make_object(hook_name=f"no-{number}"), make_object(hook_name="raises")):
                with pytest.raises(grpc.RpcError):
                    client.dispatch(message)
        with pytest.raises(grpc.RpcError):
            client.dispatch(other)
        metrics = service.http("GET", "/metrics")[1]
        assert counted(metrics, "coprocess_calls_refused_total") == [40]
        failed = r'coprocess_call_failures_total\{[^}]*hook="raises"[^}]*reason="failed"[^}]*\}'
        assert counted(metrics, failed) == [41]
        assert service.end() == 0
    assert len(entries(service.lines, "refused")) == MOST
    failed_lines = entries(service.lines, 'Pre hook "raises" raised ValueError')
    # Another place in the same hook is another kind. Each has its traceback.
    assert sum("ValueError: here" in line["exception"] for line in failed_lines) == MOST
    assert sum("ValueError: there" in line["exception"] for line in failed_lines) == 1
    rest: dict[str, Line] = {line["of"]: line for line in entries(service.lines, "more of the same")}
    assert {what: line["not_logged"] for what, line in rest.items()} == {
        "refused": 30,
        'Pre hook "raises" raised ValueError': 30,
    }
    assert rest["refused"]["status"] == "NOT_FOUND"
