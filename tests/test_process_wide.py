"""Handlers that register something for the whole process can be loaded again, and stand in routes."""

from __future__ import annotations

import builtins
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from google.protobuf import descriptor_pool

from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.loaded import Loaded
from coprocess.loading.routes import Route
from tests.conftest import Load
from tests.loading import global_of, good, problem_of, reply_of, set_headers, the_hook, write

PROTO = """
syntax = "proto3";
package mine;
import "google/protobuf/timestamp.proto";
import "google/protobuf/any.proto";
message Thing {{
  string {field} = 1;
  google.protobuf.Timestamp at = 2;
  google.protobuf.Any any = 3;
}}
"""
USES_PROTO = """
import pickle
import google.protobuf
from google.protobuf import json_format, message, timestamp_pb2
from google.protobuf.timestamp_pb2 import Timestamp
import google.protobuf.symbol_database as database
import types_pb2
from types_pb2 import Thing
from coprocess import Pre

@Pre
def hook(request):
    now = Timestamp(seconds=7)
    thing = Thing({field}="x", at=now)
    thing.at.CopyFrom(timestamp_pb2.Timestamp(seconds=8))
    thing.any.Pack(Thing({field}="inner"))
    assert isinstance(thing, message.Message) and isinstance(thing.at, Timestamp)
    assert json_format.Parse(json_format.MessageToJson(thing), Thing()) == thing
    assert database.Default().GetSymbol("mine.Thing") is Thing
    assert pickle.loads(pickle.dumps(thing)) == thing
    name = Thing.DESCRIPTOR.fields[0].name
    request.headers["X-Said"] = f"{{thing.{field}}} {{thing.at.ToSeconds()}} {{name}}"
"""


def write_proto(folder: Path, field: str) -> Path:
    """Handlers with their generated module, for a message with that field."""
    write(folder, {"types.proto": PROTO.format(field=field), "a.py": USES_PROTO.format(field=field)})
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={folder}"]
    subprocess.run([*command, "types.proto"], check=True, cwd=folder)
    return folder


def said(loaded: Loaded) -> str:
    return set_headers(reply_of(good(loaded), "hook"))["X-Said"]


def test_generated_protobuf_module_that_changes_can_be_loaded_again(load: Load, tmp_path: Path) -> None:
    """And each load goes on with its own."""
    loaded = [load(write_proto(tmp_path / "handlers", field)) for field in ("one", "two", "two")]

    assert [said(each) for each in loaded] == ["x 8 one", "x 8 two", "x 8 two"]
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName("types.proto")


def test_two_folders_with_different_generated_modules_of_one_name(load: Load, tmp_path: Path) -> None:
    folders = [write_proto(tmp_path / field, field) for field in ("one", "two")]
    text = (folders[1] / "a.py").read_text()
    (folders[1] / "a.py").write_text(text.replace("def hook", "def other"))

    table = good(load(*folders))

    assert set_headers(reply_of(table, "hook"))["X-Said"] == "x 8 one"
    assert set_headers(reply_of(table, "other"))["X-Said"] == "x 8 two"


def test_messages_of_forgotten_loads_are_collected(load: Load, tmp_path: Path) -> None:
    folder = write_proto(tmp_path / "handlers", "one")

    def load_once() -> weakref.ref[Any]:
        loaded = load(folder)
        reference = weakref.ref(global_of(the_hook(good(loaded), "hook"), "Thing"))
        said(loaded)
        loaded.forget()
        loaded._scopes.clear()
        loaded.table = type(loaded.table)()
        return reference

    references = [load_once() for _ in range(3)]
    gc.collect()

    assert [reference() for reference in references] == [None] * 3


def test_protobuf_is_the_process_s_own_where_no_module_is_generated(load: Load, tmp_path: Path) -> None:
    code = (
        "import google.protobuf.timestamp_pb2 as t\nfrom google.protobuf import json_format\n"
        + SAYS.format(what="t.__name__")
    )

    assert said(load(write(tmp_path, {"a.py": code}))) == "google.protobuf.timestamp_pb2"


SAYS = """
from coprocess import Pre

@Pre
def hook(request):
    request.headers["X-Said"] = str({what})
"""

METRICS = """
from prometheus_client import Counter, Gauge, Histogram, Summary, REGISTRY
import prometheus_client.core
from coprocess import Pre

calls = Counter("trial_calls", "Calls.", {labels})
gauge = prometheus_client.Gauge("trial_gauge", "A gauge.")
times = Histogram("trial_times", "Times.", buckets=(1, 2))
sizes = Summary("trial_sizes", "Sizes.", ["kind"])

class Own:
    def collect(self):
        yield prometheus_client.core.GaugeMetricFamily("trial_own", "Own.", value={own})

REGISTRY.register(Own())

@Pre
def hook(request):
    {count}.inc()
    times.observe(1.5)
    sizes.labels("k").observe(2)
    gauge.set({own})
    request.headers["X-Said"] = "{own}"
"""
LABELS = {"labels": '["who"]', "count": 'calls.labels("me")'}
NO_LABELS = {"labels": "[]", "count": "calls"}


def metrics(own: int, **labels: str) -> dict[str, str]:
    return {"a.py": METRICS.format(own=own, **(labels or LABELS))}


def shown(name: str, **labels: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(f"trial_{name}", labels)


def test_metrics_of_handlers_go_on_over_reloads(load: Load, tmp_path: Path) -> None:
    first = load(write(tmp_path, metrics(1)))
    assert said(first) == "1"
    second = load(write(tmp_path, metrics(2)))
    # Calls of both may run at one time; they are the same metrics.
    assert [said(second), said(first), said(second)] == ["2", "1", "2"]
    first.forget()

    assert shown("calls_total", who="me") == 4
    assert shown("times_count") == 4
    assert shown("sizes_sum", kind="k") == 8
    assert (shown("gauge"), shown("own")) == (2, 2)
    second.forget()
    assert shown("calls_total", who="me") is None
    assert shown("own") is None


def test_metrics_that_are_defined_otherwise_take_the_place_of_the_old(load: Load, tmp_path: Path) -> None:
    first = load(write(tmp_path, metrics(1)))
    said(first)
    failed = load(write(tmp_path, {**metrics(2, **NO_LABELS), "z.py": "1/0"}))
    assert len(failed.problems) == 1
    failed.forget()
    assert shown("calls_total", who="me") == 1, "what serves is shown again"
    assert shown("own") == 1
    (tmp_path / "z.py").unlink()

    second = load(tmp_path)
    said(second)
    first.forget()

    assert shown("calls_total") == 1
    assert shown("own") == 2


def test_metrics_of_two_versions_side_by_side(tmp_path: Path) -> None:
    write(tmp_path / "handlers", metrics(1))
    write(tmp_path / "canary", metrics(1))

    loaded = loader.load([tmp_path / "handlers"], HOME, [Route("new", (tmp_path / "canary",), 50)])

    try:
        assert loaded.problems == []
    finally:
        loaded.forget()
    assert shown("gauge") is None


ONCE = """
import builtins
assert not hasattr(builtins, "trial_is_done")
builtins.trial_is_done = {mark}
"""


@pytest.fixture
def undone() -> Iterator[None]:
    yield
    vars(builtins).pop("trial_is_done", None)


@pytest.mark.usefixtures("undone")
def test_problem_of_what_can_be_done_once_says_what_helps(load: Load, tmp_path: Path) -> None:
    """Also where a sibling does it, and where another folder has the same code, as a route's has."""
    folders = [
        write(tmp_path / each, {"a.py": "import once\n", "once.py": ONCE.format(mark=1)}) for each in "ab"
    ]
    good(load(folders[0]))

    for folder in folders:
        text = next(str(each) for each in load(folder).problems)
        assert "This code has been loaded before in this process" in text
        assert "restart the service" in text


@pytest.mark.usefixtures("undone")
def test_problem_of_code_that_is_new_says_nothing_of_loads_before(load: Load, tmp_path: Path) -> None:
    good(load(write(tmp_path, {"a.py": ONCE.format(mark=2), "b.py": "import a"})))
    write(tmp_path, {"a.py": ONCE.format(mark=3)})

    assert not any("loaded before" in str(each) for each in load(tmp_path).problems)


def test_module_that_has_gone_is_no_matter_of_the_process(load: Load, tmp_path: Path) -> None:
    good(load(write(tmp_path, {"a.py": "import helper_that_goes", "helper_that_goes.py": ""})))
    (tmp_path / "helper_that_goes.py").unlink()

    assert problem_of(load(tmp_path)).endswith("No module named 'helper_that_goes'")


def test_metrics_of_a_library_that_handlers_import_stay(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is the process's: it is not imported again."""
    code = "from prometheus_client import Counter\ncounter = Counter('trial_of_library', '')\n"
    write(tmp_path / "site", {"trial_library.py": code})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder = write(tmp_path / "handlers", {"a.py": "import prometheus_client\nimport trial_library\n"})
    for _ in range(2):
        loaded = load(folder)
        good(loaded)
        loaded.forget()

    assert shown("of_library_total") == 0
    prometheus_client.REGISTRY.unregister(sys.modules.pop("trial_library").counter)


def test_protobuf_that_a_folder_brings_along_is_not_used(load: Load, tmp_path: Path) -> None:
    """It could not handle the messages that handlers are passed."""
    broken = "raise SystemExit('it was run')"
    site = "vendor/lib/python3.7/site-packages/google"
    files = {f"{site}/protobuf/__init__.py": broken, f"{site}/protobuf/timestamp_pb2.py": broken}
    files[f"{site}/other/__init__.py"] = "NAME = 'other'"
    code = "import google.other, google.protobuf\nfrom google.protobuf import message, timestamp_pb2\n"
    code += "from google.protobuf.message import Message\n" + SAYS.format(
        what="google.other.NAME + str(issubclass(timestamp_pb2.Timestamp, message.Message))"
    )

    assert said(load(write(tmp_path, {**files, "a.py": code}))) == "otherTrue"


def test_two_metrics_of_one_name_in_one_folder_are_still_a_problem(load: Load, tmp_path: Path) -> None:
    code = "from prometheus_client import Counter\nCounter('trial_twice', '')\nCounter('trial_twice', '')\n"

    assert "a.py:3: DuplicateTimeseries" in problem_of(load(write(tmp_path, {"a.py": code})))
