"""The metrics of a service that has done known things."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coprocess.process import metrics
from coprocess.runtime.hook_state import MAX_APIS, MAX_PAIRS, ApiLabels, HookCounts
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write

HANDLERS = """
import pathlib
from coprocess import Pre, store

@Pre
def good(request):
    pass

@Pre
def bad(request):
    raise ValueError("Authorization: Bearer do-not-show-1")

@Pre
def store_away(request):
    try:
        store.set("key", "1")
        store.get("key")
    except Exception:
        pass

@Pre(timeout=1)
def slow(request):
    busy(request)

@Pre
def busy(request):
    import time
    while not pathlib.Path({here!r}, "go").exists():
        time.sleep(0.005)
"""

Labels = tuple[tuple[str, str], ...]


class Samples:
    """What was scraped."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float | None:
        return self._values.get((name, tuple(sorted(labels.items()))))

    def of_hook(self, name: str, hook: str, **labels: str) -> float | None:
        return self.get(name, **{"hook_type": "Pre", "hook": hook, "version": "", "api": "api", **labels})

    def load_of_hook(self, name: str, hook: str) -> float | None:
        return self.get(name, hook_type="Pre", hook=hook, version="")


def scrape(service: ServeProcess) -> Samples:
    return Samples(service.http("GET", "/metrics")[1])


def wait_until_counted(service: ServeProcess, hook: str, count: int) -> Samples:
    """A call is counted just after it was answered."""
    while True:
        samples = scrape(service)
        if samples.of_hook("coprocess_call_duration_seconds_count", hook) == count:
            return samples


def test_what_happened_is_counted(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=HANDLERS.format(here=str(tmp_path)))
    limits = ("--timeout-s=60", "--concurrency=1", "--queue-size=1", "--max-message-bytes=100000")
    flags = (*limits, f"--data-dir={tmp_path / 'data'}")
    with ServeProcess(handlers, *flags) as service, service.client() as client:
        for _ in range(3):
            client.dispatch(make_object(hook_name="good"))
        for hook in ("bad", "slow", "unknown"):
            with pytest.raises(grpc.RpcError):
                client.dispatch(make_object(hook_name=hook))
        with pytest.raises(grpc.RpcError):
            client.raw(bytes(100_001))
        client.dispatch(make_object(hook_name="store_away"))

        wait_until_counted(service, "good", 3)
        wait_until_counted(service, "bad", 1)
        samples = wait_until_counted(service, "slow", 1)
        assert samples.of_hook("coprocess_call_duration_seconds_bucket", "good", le="+Inf") == 3
        assert samples.of_hook("coprocess_call_failures_total", "good", reason="failed") == 0
        assert samples.of_hook("coprocess_call_failures_total", "bad", reason="failed") == 1
        assert samples.of_hook("coprocess_call_failures_total", "slow", reason="timed_out") == 1
        # It took a second at least: it is in no bucket below.
        assert samples.of_hook("coprocess_call_duration_seconds_bucket", "slow", le="0.5") == 0
        # An unknown hook, and a message that is too large.
        assert samples.get("coprocess_calls_refused_total") == 2
        assert samples.of_hook("coprocess_call_duration_seconds_count", "unknown") is None
        assert samples.get("coprocess_store_operation_duration_seconds_count", operation="set") == 1
        assert samples.get("coprocess_store_failures_total", operation="get") == 0
        assert samples.get("coprocess_hooks", hook_type="Pre", version="") == 5
        assert samples.get("coprocess_serving") == 1
        (build,) = samples.families["coprocess_build_info"].samples
        assert (build.labels["engine"], build.value) == ("http2", 1)
        assert (samples.get("process_resident_memory_bytes") or 0) > 0
        assert "do-not-show-1" not in service.text

        # One runs, one waits, one is shed.
        running = [client.future(make_object(hook_name="busy"))]
        while scrape(service).load_of_hook("coprocess_calls_in_flight", "busy") != 1:
            pass
        running.append(client.future(make_object(hook_name="busy")))
        while scrape(service).load_of_hook("coprocess_calls_queued", "busy") != 1:
            pass
        with pytest.raises(grpc.RpcError):
            client.dispatch(make_object(hook_name="busy"))
        assert scrape(service).of_hook("coprocess_call_failures_total", "busy", reason="shed") == 1
        (tmp_path / "go").touch()
        for call in running:
            call.exception()


def test_reloads_are_counted_and_counters_never_go_back(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"))
    with ServeProcess(handlers) as service, service.client() as client:
        client.dispatch(make_object(hook_name="stamp"))
        wait_until_counted(service, "stamp", 1)
        assert service.http("POST", "/reload")[0] == 200
        client.dispatch(make_object(hook_name="stamp"))
        wait_until_counted(service, "stamp", 2)
        write(handlers, a="broken it is")
        assert service.http("POST", "/reload")[0] == 409
        samples = scrape(service)
        assert samples.get("coprocess_reloads_total", result="ok") == 1
        assert samples.get("coprocess_reloads_total", result="failed") == 1
        assert samples.get("coprocess_last_reload_successful") == 0
        assert samples.get("coprocess_load_problems") == 1


def test_hooks_beyond_the_bound_are_counted_as_one() -> None:
    totals = {
        ("Pre", f"hook{number}", "", "api"): HookCounts(failed=1) for number in range(metrics.MAX_HOOKS + 5)
    }
    bounded = metrics._bounded(totals)
    assert len(bounded) == metrics.MAX_HOOKS + 1
    assert bounded[metrics.OTHER].failed == 5
    assert sum(counts.failed for counts in bounded.values()) == metrics.MAX_HOOKS + 5


def test_calls_are_counted_by_their_api_and_version(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=HANDLERS.format(here=str(tmp_path)))
    write(tmp_path / "next", a=HANDLERS.format(here=str(tmp_path)))
    routes = "[routes.canary]\nhandlers = ['next']\nweight_percent = 100\napis = ['orders']\n"
    (tmp_path / "coprocess.toml").write_text(routes)
    with ServeProcess(handlers) as service, service.client() as client:
        for api_id, times in (
            ("orders", 3),
            ("users", 2),
            ("", 1),
            ("\0" * 9, 1),
            ("x" * 65, 1),
            ("naïve", 1),
        ):
            for _ in range(times):
                client.dispatch(make_object(hook_name="good", api_id=api_id))
        with pytest.raises(grpc.RpcError):
            client.dispatch(make_object(hook_name="bad", api_id="orders"))
        name = "coprocess_call_duration_seconds_count"
        while scrape(service).of_hook(name, "bad", api="orders", version="canary") is None:
            pass
        samples = scrape(service)
        assert samples.of_hook(name, "good", api="orders", version="canary") == 3
        assert samples.of_hook(name, "good", api="orders") is None
        assert samples.of_hook(name, "good", api="users") == 2
        assert samples.of_hook(name, "good", api="") == 1
        assert samples.of_hook(name, "good", api="naïve") == 1
        assert samples.of_hook(name, "good", api="other") == 2
        failed = {"reason": "failed", "api": "orders", "version": "canary"}
        assert samples.of_hook("coprocess_call_failures_total", "bad", **failed) == 1
        assert samples.get("coprocess_hooks", hook_type="Pre", version="canary") == 5
        assert samples.get("coprocess_route_weight_percent", version="canary") == 100
        assert samples.get("coprocess_rolled_back") == 0


HOOK = ("Pre", "hook", "")


def test_apis_beyond_the_bound_are_other() -> None:
    labels = ApiLabels()
    asked = [f"api{number}" for number in range(MAX_APIS + 5)]
    given = [labels.label(HOOK, api_id) for api_id in asked]
    assert given == asked[:MAX_APIS] + ["other"] * 5
    assert [labels.label(HOOK, api_id) for api_id in asked] == given, "and it stays so"
    assert labels.label(("Pre", "another", ""), asked[0]) == asked[0]


def test_pairs_of_hook_and_api_are_bounded() -> None:
    labels = ApiLabels()
    hooks = [("Pre", f"hook{number}", "") for number in range(MAX_PAIRS // 100 + 1)]
    given = [labels.label(hook, f"api{number}") for hook in hooks for number in range(100)]
    assert given.count("other") == 100
    assert labels.label(hooks[0], "api0") == "api0"
    assert labels.label(hooks[-1], "") == ""


def test_store_operations_are_counted_from_all_threads() -> None:
    counts = metrics.StoreCounts()

    def observe() -> None:
        for _ in range(1000):
            counts.observe("get", 0.002, False)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in counts.collect()
        for sample in family.samples
    }
    assert values["coprocess_store_failures_total", None] == 4000
    assert values["coprocess_store_operation_duration_seconds_bucket", "0.001"] == 0
    assert values["coprocess_store_operation_duration_seconds_bucket", "0.0025"] == 4000
    assert values["coprocess_store_operation_duration_seconds_sum", None] == pytest.approx(8)
