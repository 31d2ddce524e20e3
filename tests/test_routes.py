"""Routes: who gets which version, what is wrong with a route, and both versions behind one service."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess.api.moments import HookType
from coprocess.errors import ConfigError, LoadError
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.routes import DEFAULT_KEY_HEADERS, Route, RoutedTable, choose_route
from coprocess.process.route_settings import load_routes
from coprocess.process.settings_loading import load_settings
from tests.loading import good, run
from tests.objects import make_object, make_request
from tests.serve_process import ServeProcess, stamping, write
from tests.server import ENGINES, Client

CALLERS = [{"Authorization": f"caller {number}"} for number in range(1000)]


def route(
    name: str = "canary", weight_percent: float = 5, **given: frozenset[str] | tuple[str, ...]
) -> Route:
    return Route(name, (Path("next"),), weight_percent, **given)  # type: ignore[arg-type]  # by name


def callers_of(name: str, routes: list[Route]) -> set[str]:
    """Those of CALLERS that go to the version `name`; empty: the default one."""
    chosen = [(headers["Authorization"], choose_route(routes, "api", headers)) for headers in CALLERS]
    return {caller for caller, found in chosen if (found.name if found else "") == name}


weights = st.floats(0, 100, allow_nan=False)
halves = st.floats(0, 50, allow_nan=False)
#: No time is asserted.
few = settings(max_examples=25, deadline=None)


@few
@given(weights)
def test_share_is_the_weight(weight_percent: float) -> None:
    share = len(callers_of("canary", [route(weight_percent=weight_percent)])) / len(CALLERS)
    # Five standard deviations, at the most.
    assert abs(share - weight_percent / 100) < 0.08
    assert (share == 0) or weight_percent > 0
    assert (share == 1) or weight_percent < 100


@few
@given(weights, weights)
def test_raising_a_weight_takes_no_caller_away(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert callers_of("canary", [route(weight_percent=low)]) <= callers_of(
        "canary", [route(weight_percent=high)]
    )


@few
@given(halves, halves, halves)
def test_several_routes_each_have_their_share_and_keep_their_callers(a: float, b: float, more: float) -> None:
    before = [route("a", a), route("b", b)]
    assert abs(len(callers_of("a", before)) / len(CALLERS) - a / 100) < 0.08
    assert abs(len(callers_of("b", before)) / len(CALLERS) - b / 100) < 0.08
    low, high = sorted((b, more))
    assert callers_of("b", [route("a", a), route("b", low)]) <= callers_of(
        "b", [route("a", a), route("b", high)]
    )
    low, high = sorted((a, more))
    # Those that leave b go to a, which was raised.
    left = callers_of("b", [route("a", low), route("b", b)]) - callers_of(
        "b", [route("a", high), route("b", b)]
    )
    assert left <= callers_of("a", [route("a", high), route("b", b)])


def test_each_route_tries_other_callers() -> None:
    assert callers_of("a", [route("a", 20)]) != callers_of("b", [route("b", 20)])


@given(st.dictionaries(st.sampled_from([*DEFAULT_KEY_HEADERS, "X-Other"]), st.text(min_size=1)))
def test_same_key_same_point_whatever_else_the_request_has(headers: Mapping[str, str]) -> None:
    keyed = {**headers, "Authorization": "the caller"}
    assert route().point(keyed) == route().point({"Authorization": "the caller"})
    assert 0 <= route().point(headers) < 1


def test_point_is_the_same_in_every_process() -> None:
    # Were it another one after an update, callers would change sides.
    assert route().point({"Authorization": "a"}) == POINT_OF_A


POINT_OF_A = 0.6767802687529669


def test_first_key_header_that_is_there_counts() -> None:
    of = route(key_headers=("X-Tenant", "Authorization"))
    assert of.point({"X-Tenant": "t", "Authorization": "a"}) == of.point({"X-Tenant": "t"})
    assert of.point({"X-Tenant": "", "Authorization": "a"}) == of.point({"Authorization": "a"})


def test_without_a_key_it_is_drawn_anew() -> None:
    drawn = [choose_route([route(weight_percent=50)], "api", {}) for _ in range(200)]
    assert 0 < drawn.count(None) < 200


def test_a_route_has_its_apis_only() -> None:
    routes = [route(weight_percent=100, apis=frozenset({"orders"}))]
    assert choose_route(routes, "orders", {}) is routes[0]
    assert choose_route(routes, "users", {}) is None


# Loading.


def routed(tmp_path: Path, apis: frozenset[str] | None = None) -> RoutedTable:
    folders = [tmp_path / "handlers"]
    routes = [Route("canary", (tmp_path / "next",), 100, apis)]
    table = good(loader.load(folders, HOME, routes))
    assert isinstance(table, RoutedTable)
    return table


BOTH = """
from coprocess import Pre, CustomKeyCheck, trigger_event, Event

@Pre
def stamp(request):
    import helper
    request.headers["X-Stamp"] = helper.WHO
"""


def stamp_by(table: RoutedTable, name: str = "stamp", **spec: str) -> str:
    reply = run(table, make_object(hook_name=name, spec=spec))
    return reply.request.set_headers["X-Stamp"]


def test_both_versions_have_their_own_modules(tmp_path: Path) -> None:
    write(tmp_path / "handlers", a=BOTH, helper="WHO = 'default'")
    write(tmp_path / "next", a=BOTH, helper="WHO = 'canary'")
    table = routed(tmp_path)
    assert stamp_by(table) == "canary"
    assert stamp_by(table.without_shares()) == "default"
    assert sorted(hook.version for hook in table) == ["", "canary"]
    assert len(table) == 2


def test_what_the_route_does_not_have_is_the_default_versions(tmp_path: Path) -> None:
    write(tmp_path / "handlers", a=stamping("default"), b=stamping("default").replace("stamp(", "other("))
    write(tmp_path / "next", a=stamping("canary"))
    table = routed(tmp_path)
    assert (stamp_by(table), stamp_by(table, "other")) == ("canary", "default")
    assert table.find(HookType.Pre, "other") is not None, "found at once: no route concerns it"


def test_what_only_the_route_has_is_found_there(tmp_path: Path) -> None:
    write(tmp_path / "handlers", a=stamping("default"))
    write(tmp_path / "next", a=stamping("canary").replace("stamp(", "fresh("))
    assert stamp_by(routed(tmp_path), "fresh") == "canary"


def bundle(folder: Path, value: str) -> Path:
    folder.mkdir(parents=True)
    write(folder, a=stamping(value))
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_bundle_serves_calls_for_which_the_gateway_still_names_the_old_one(tmp_path: Path) -> None:
    bundle(tmp_path / "handlers" / "orders-1", "old")
    bundle(tmp_path / "handlers" / "users-1", "users")
    bundle(tmp_path / "next", "new")
    table = routed(tmp_path, apis=frozenset({"orders"}))
    assert stamp_by(table, APIID="orders", bundle_hash="orders-1") == "new"
    assert stamp_by(table, APIID="users", bundle_hash="users-1") == "users"
    off = table.without_shares()
    assert stamp_by(off, APIID="orders", bundle_hash="orders-1") == "old"


def test_of_a_routes_bundles_none_is_guessed(tmp_path: Path) -> None:
    bundle(tmp_path / "handlers" / "orders", "old")
    bundle(tmp_path / "next" / "orders", "new")
    bundle(tmp_path / "next" / "users", "users")
    table = routed(tmp_path)
    assert stamp_by(table, bundle_hash="orders") == "new"
    assert stamp_by(table, bundle_hash="of another") == "old"


def test_a_route_without_handlers_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "handlers", a=stamping("default"))
    write(tmp_path / "next")
    routes = [Route("canary", (tmp_path / "next",), 5)]
    (problem,) = loader.load([tmp_path / "handlers"], HOME, routes).problems
    assert str(problem) == f'{tmp_path / "next"}: no handlers, and route "canary" needs some'
    gone = [Route("canary", (tmp_path / "gone",), 5)]
    with pytest.raises(LoadError, match="no such folder"):
        loader.load([tmp_path / "handlers"], HOME, gone)


# Settings.


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("routes = 5", "routes: expected tables, such as [routes.canary] (got 5)"),
        ("[routes]\ncanary = 5", "routes.canary: expected a table, such as [routes.canary] (got 5)"),
        ("[routes.'a b']", "routes.a b: expected a name of up to 64 letters, digits and _ . -"),
        ("[routes.canary]\nweight_percent = 5", "routes.canary.handlers: is not set"),
        ("[routes.canary]\nhandlers = ['next']", "routes.canary.weight_percent: is not set"),
        (
            "[routes.canary]\nhandlers = ['next']\nweight_percent = 5\nwieght_percent = 5",
            "routes.canary.wieght_percent: no such setting; did you mean weight_percent?",
        ),
        (
            "[routes.canary]\nhandlers = ['next']\nweight_percent = 120",
            "routes.canary.weight_percent: Input should be less than or equal to 100 (got 120)",
        ),
        (
            "[routes.canary]\nhandlers = ['next']\nweight_percent = nan",
            "routes.canary.weight_percent: Input should be less than or equal to 100 (got nan)",
        ),
        (
            "[routes.canary]\nhandlers = ['next']\nweight_percent = true",
            "routes.canary.weight_percent: Input should be a valid number (got True)",
        ),
        (
            "[routes.canary]\nhandlers = ['gone']\nweight_percent = 5",
            "routes.canary.handlers: gone: no such folder. Expected: a folder with handler modules",
        ),
        (
            "[routes.canary]\nhandlers = ['next']\nweight_percent = 5\nkey_headers = ['a b']",
            "routes.canary.key_headers: 'a b' is no HTTP header name",
        ),
        (
            "[routes.a]\nhandlers = ['next']\nweight_percent = 60\napis = ['x']\n"
            "[routes.b]\nhandlers = ['next']\nweight_percent = 40.5",
            "routes.a, routes.b: weight_percent adds up to 100.5. "
            'Expected: at most 100 % of the calls of API "x"',
        ),
    ],
)
def test_wrong_routes(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "next").mkdir()
    Path("coprocess.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_routes()
    assert str(caught.value) == f"coprocess.toml: {problem}"
    # The other settings are as good as they were.
    assert load_settings({}).workers == 1


def test_right_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "next").mkdir()
    file = tmp_path / "other.toml"
    file.write_text(
        "workers = 2\n[routes.a]\nhandlers = ['next']\nweight_percent = 100\napis = ['x']\n"
        "key_headers = ['x-tenant']\n[routes.b]\nhandlers = ['next']\nweight_percent = 0.5\napis = ['y']\n"
    )
    next_folder = (Path("next"),)
    assert load_routes(file) == (
        Route("a", next_folder, 100, frozenset({"x"}), ("X-Tenant",)),
        Route("b", next_folder, 0.5, frozenset({"y"})),
    )
    assert load_settings({}, file).workers == 2
    assert load_routes() == ()


# A service.


class Canary:
    """Handlers `default` and `canary` that stamp, with a weight in coprocess.toml."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "coprocess.toml"
        self.handlers = write(folder / "handlers", a=STAMPING_ALL.format(who="default"))
        self.next = write(folder / "next", a=STAMPING_ALL.format(who="canary"))
        self.weigh(5)

    def weigh(self, weight_percent: float | str) -> None:
        """Set the weight, or any text in its place and after it."""
        self._file.write_text(f"[routes.canary]\nhandlers = ['next']\nweight_percent = {weight_percent}\n")


STAMPING_ALL = """
from coprocess import Event, Post, Pre, Response, trigger_event

@Pre
@Post
def stamp(request):
    request.headers["X-Stamp"] = "{who}"

@Response
def stamp_response(response):
    response.headers["X-Stamp"] = "{who}"

@Pre
def trigger(request):
    trigger_event("told", "null")
    request.headers["X-Stamp"] = "{who}"

@Event
def told(event):
    print("told to {who}")

@Pre
def fails(request):
    raise ValueError("{who}")
"""


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path)


def version_of(client: Client, caller: str, hook: str = "stamp", hook_type: HookType = HookType.Pre) -> str:
    request = make_request(headers={"Authorization": caller})
    reply = client.dispatch(make_object(hook_type, hook, request=request))
    if hook_type is HookType.Response:
        return reply.response.headers["X-Stamp"]
    return reply.request.set_headers["X-Stamp"]


def share(client: Client, calls: int = 400) -> float:
    return [version_of(client, f"caller {number}") for number in range(calls)].count("canary") / calls


@pytest.mark.parametrize("engine", ENGINES)
def test_a_service_sends_a_share_and_keeps_requests_together(canary: Canary, engine: str) -> None:
    canary.weigh(50)
    with ServeProcess(canary.handlers, f"--engine={engine}") as service, service.client() as client:
        assert service.logged("serving")["routes"] == {"canary": 50}
        versions: dict[str, str] = {}
        for number in range(60):
            caller = f"caller {number}"
            seen = {
                version_of(client, caller),
                version_of(client, caller, hook_type=HookType.Post),
                version_of(client, caller, "stamp_response", HookType.Response),
            }
            assert len(seen) == 1
            versions[caller] = seen.pop()
        assert set(versions.values()) == {"canary", "default"}

        # An event of a version's handler is for that version; a failure is logged with it.
        chosen = next(caller for caller, version in versions.items() if version == "canary")
        version_of(client, chosen, "trigger")
        told = service.wait_for("told to canary")
        assert (told["hook"], told["version"]) == ("told", "canary")
        with pytest.raises(grpc.RpcError):
            version_of(client, chosen, "fails")
        failed = service.wait_for('Pre hook "fails" raised ValueError')
        assert failed["version"] == "canary"
        assert "caller 1" not in service.text, "a key is no text for a log"
        assert "caller 1" not in service.http("GET", "/metrics")[1]

        page = service.page("/hooks")
        (shown,) = page["routes"]
        assert (shown["version"], shown["weight_percent"], shown["handlers"]) == (
            "canary",
            50,
            [str(canary.handlers.parent / "next")],
        )
        assert {hook["version"] for hook in page["hooks"]} == {None, "canary"}


def test_a_bad_file_keeps_the_old_routes(canary: Canary) -> None:
    with ServeProcess(canary.handlers) as service, service.client() as client:
        for wrong in (120, "'much'", "5\n[routes.other]\nhandlers = ['gone']\nweight_percent = 1", "= ="):
            canary.weigh(100)
            assert service.http("POST", "/reload")[0] == 200
            canary.weigh(wrong)
            status, page = service.http("POST", "/reload")
            assert (status, "coprocess.toml" in page) == (409, True)
            assert version_of(client, "any") == "canary"
            assert service.page("/readyz")["last_reload"]["succeeded"] is False
            assert "coprocess_last_reload_successful 0.0" in service.http("GET", "/metrics")[1]
        # As does a broken file of the route's.
        canary.weigh(0)
        write(canary.next, a="broken it is")
        assert service.http("POST", "/reload")[0] == 409
        assert version_of(client, "any") == "canary"


def test_a_bad_file_ends_the_start(canary: Canary) -> None:
    canary.weigh(101)
    with ServeProcess(canary.handlers, wait=False) as service:
        assert service.wait() == 1
    assert "coprocess.toml: routes.canary.weight_percent: Input should be less" in service.text


def test_weights_change_under_load_without_a_lost_call(canary: Canary) -> None:
    canary.weigh(0)
    with ServeProcess(canary.handlers) as service, service.client() as client:
        stop, wrong = threading.Event(), list[Exception]()

        def load() -> None:
            with service.client() as own:
                try:
                    for number in itertools.count():
                        if stop.is_set():
                            return
                        assert version_of(own, f"caller {number % 50}") in ("default", "canary")
                except Exception as error:  # noqa: BLE001 - it is what the test looks for
                    wrong.append(error)

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        on_canary: set[str] = set()
        for weight in (0, 5, 20, 50, 100):
            canary.weigh(weight)
            service.process.send_signal(signal.SIGHUP)
            assert service.wait_for("reloaded")["routes"] == {"canary": weight}
            now = {caller for caller in map(str, range(100)) if version_of(client, caller) == "canary"}
            assert on_canary <= now
            on_canary = now
        assert len(on_canary) == 100
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_file_changes_of_settings_and_new_folders(canary: Canary) -> None:
    with ServeProcess(canary.handlers, "--reload") as service, service.client() as client:
        write(canary.next.with_name("later"), a=stamping("later"))
        canary.weigh("0\n[routes.more]\nhandlers = ['later']\nweight_percent = 100")
        service.wait_for("reloaded")
        assert version_of(client, "any") == "later"
        write(canary.next.with_name("later"), a=stamping("latest"))
        service.wait_for("reloaded")
        assert version_of(client, "any") == "latest"


def test_workers_agree(canary: Canary) -> None:
    canary.weigh(50)
    with ServeProcess(canary.handlers, "--workers=2") as service, service.client() as client:
        for caller in map(str, range(20)):
            assert len({version_of(client, caller) for _ in range(6)}) == 1
        canary.weigh(100)
        assert service.http("POST", "/reload")[0] == 200
        assert {version_of(client, str(number)) for number in range(20)} == {"canary"}
