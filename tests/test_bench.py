"""What `make bench` is made of works, also where there is no Go; it measures nothing here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import grpc
import pytest

from coprocess.gateways.tyk.wire import DISPATCH, Object
from tests.objects import make_object
from tests.server import PATIENCE_S, serving

BENCH = Path(__file__).parent.parent / "bench"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_go_the_bench_says_so() -> None:
    words = [sys.executable, str(BENCH / "run.py")]
    ran = subprocess.run(words, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "The bench needs Go, for its load generator.\n"


@pytest.mark.parametrize(
    "name", ["compare", "envoy", "envoy_through", "hostile", "instructions", "kong", "run"]
)
def test_what_a_script_needs_of_others_is_found(name: str) -> None:
    """envoy_through.py looked for them in the place of another folder."""
    words = [sys.executable, str(BENCH / f"{name}.py"), "--help"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_page_shows_the_figures_that_were_measured() -> None:
    report = load("report")
    figures = json.loads(report.FIGURES.read_text())
    page = report.PAGE.read_text()
    assert report.filled(page, report.sections(figures)) == page
    assert report.plot(figures["throughput"]) == report.PLOT.read_text()
    page = report.KONG_PAGE.read_text()
    assert report.filled(page, {"figures": report.kong(figures["kong"])}) == page
    assert report.kong_plot(figures["kong"]) == report.KONG_PLOT.read_text()
    page = report.ENVOY_PAGE.read_text()
    assert report.filled(page, {"figures": report.envoy(figures["envoy"])}) == page
    assert report.envoy_plot(figures["envoy"]) == report.ENVOY_PLOT.read_text()


def test_envoys_figures_are_held_to_gos() -> None:
    report = load("report")
    machine = json.loads(report.FIGURES.read_text())["kong"]["machine"]
    served = {
        "go": {"calls_per_s": 100.0, "cpu_us_per_call": 10.0},
        "grpcio-aio": {"calls_per_s": 10.0, "cpu_us_per_call": 100.0},
        "http2": {"calls_per_s": 150.0, "cpu_us_per_call": 5.0},
    }
    held = {"streams": 1000, "kib_a_stream": 7.04, "threads_more": 0}
    figures = {"machine": machine, "streams": served, "checks": served, "bare": served, "held": held}

    text = report.envoy(figures)

    assert "| ext_authz, a Check that allows | http2 | 150 | 1.50 (≥ 1.05) | 5 | 0.50 (≤ 0.8) |" in text
    assert "| ext_authz, a Check that allows | grpcio-aio | 10 | 0.10 | 100 | 10.00 |" in text
    assert "that of a processor on grpc.aio (≤ 0.1): http2 0.05." in text
    assert "1,000 streams that wait for upstreams: 7.0 KiB each (≤ 20), 0 threads more (0)." in text
    assert report.filled(report.ENVOY_PAGE.read_text(), {"figures": text}).count(text) == 1
    assert "http2, ext_proc" in report.envoy_plot(figures)


def test_a_call_without_a_transport_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    tools = load("microseconds")
    with serving() as server:
        call = tools.NoTransport(make_object(hook_name="nobody").SerializeToString())
        with pytest.raises(RuntimeError, match='no Pre hook "nobody"'):
            server.service.handle(call)


def test_calls_whose_instructions_are_counted_are_answered() -> None:
    words = [sys.executable, str(BENCH / "instructions.py"), "--steps", "1"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_failed_calls_are_no_figures() -> None:
    words = [sys.executable, "-c", "print('{\"errors\": 3}')"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    with pytest.raises(SystemExit, match="3 calls failed"):
        load("load").result(process)


@pytest.mark.parametrize("peer", ["grpcio_sync", "grpcio_aio"])
def test_a_peer_answers(peer: str) -> None:
    tools = load("load")
    message = make_object(hook_name="MyPreMiddleware")
    with (
        tools.serving(f"{sys.executable} {tools.PEERS / peer}.py {{addr}}") as (_, address),
        grpc.insecure_channel(address) as channel,
    ):
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(DISPATCH)
        reply = Object.FromString(call(message.SerializeToString(), timeout=PATIENCE_S))
    message.request.set_headers["myheader"] = "myvalue"
    assert reply == message
