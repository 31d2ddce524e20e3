"""The pytest plugin: fixtures `gateway`, `envoy`, `kong`, `dispatch`, `store`. The heavy is imported late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from coprocess.errors import CoprocessError

if TYPE_CHECKING:
    from coprocess.desk.envoy.simulator import EnvoyConfig
    from coprocess.desk.store import TemporaryServer
    from coprocess.desk.tyk.simulator import ApiDefinition
    from coprocess.desk.tyk.trial import InProcessDispatcher
    from coprocess.loading.home import Home
    from coprocess.loading.loaded import Loaded
    from coprocess.testing.dispatch import Dispatch
    from coprocess.testing.envoy import Envoy
    from coprocess.testing.gateway import Gateway
    from coprocess.testing.kong import Kong
    from coprocess.testing.store import TrialStore

_MARKER = "coprocess"
_OPTIONS = ("handlers", "api", "upstream", "plugins", "config", "declarative", "lua_style")
_DEFAULT_FOLDERS = ("handlers", "event_handlers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "coprocess_handlers",
        "folders with handlers (default: handlers and event_handlers in rootdir)",
        type="paths",
    )
    parser.addini(
        "coprocess_plugins",
        "files of Kong plugins, for the fixture kong (default: plugins/*.py in rootdir)",
        type="paths",
    )
    parser.addini(
        "coprocess_api",
        "API definition, from rootdir (default: api.json, or the only one in apis/, or a keyless API that "
        "names every handler)",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "coprocess(handlers=..., api=..., upstream=...): handler folders, API definition (file or dict) and "
        "upstream of the fixtures gateway and dispatch, paths from rootdir. For the fixture kong: plugins=, "
        "config=, declarative=, lua_style=, upstream=",
    )


@pytest.fixture(scope="session")
def _coprocess_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryServer]:
    from coprocess.desk.store import TemporaryServer

    server = TemporaryServer(tmp_path_factory.mktemp("coprocess-store"))
    yield server
    server.close()


@pytest.fixture
def _coprocess_store(_coprocess_server: TemporaryServer) -> Iterator[TrialStore]:
    # Another name than the fixture's.
    from coprocess.desk.store import TRIAL_TIMEOUT_S
    from coprocess.store import store as process_store
    from coprocess.testing.store import TrialStore

    _coprocess_server.flush()
    process_store.configure(_coprocess_server.url, timeout_s=TRIAL_TIMEOUT_S)
    tested = TrialStore(_coprocess_server)
    yield tested
    tested.close()
    process_store.close()


@pytest.fixture
def store(_coprocess_store: TrialStore) -> TrialStore:
    """The store of the handlers, `coprocess.store`: a real server, empty when the test begins.

    `store.advance(seconds)` brings the end of keys nearer.
    """
    return _coprocess_store


@pytest.fixture
def _coprocess_handlers(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    from coprocess.gateways.tyk.home import HOME

    loaded = _loaded(request, HOME)
    yield loaded
    loaded.forget()


def _loaded(request: pytest.FixtureRequest, home: Home) -> Loaded:
    from coprocess.api.app import configuring
    from coprocess.loading import loader
    from coprocess.process.app_settings import load_app_settings
    from coprocess.process.route_settings import load_routes

    root, folders = request.config.rootpath, _folders(request)
    if not folders:
        pytest.fail(
            f"no handlers: expected {' or '.join(_DEFAULT_FOLDERS)} in {root}, or the option "
            "coprocess_handlers",
            pytrace=False,
        )
    try:
        with configuring(load_app_settings(base=root)):
            loaded = loader.load(folders, home, load_routes(base=root))
    except CoprocessError as error:
        _fail(error)
    if loaded.problems:
        texts = [problem.traceback or str(problem) for problem in loaded.problems]
        pytest.fail("handlers could not be loaded:\n" + "\n".join(texts), pytrace=False)
    return loaded


@pytest.fixture
def _coprocess_dispatcher(
    request: pytest.FixtureRequest, _coprocess_handlers: Loaded
) -> Iterator[InProcessDispatcher]:
    from coprocess.desk.tyk.trial import InProcessDispatcher
    from coprocess.errors import ConfigError

    # Where there is no embedded server for this platform, handlers that use no store do without.
    with suppress(ConfigError):
        request.getfixturevalue("_coprocess_store")
    with (
        InProcessDispatcher(_coprocess_handlers.table) as dispatcher,
        dispatcher.opening(_coprocess_handlers) as problems,
    ):
        if problems:
            pytest.fail("resources did not open:\n" + "\n".join(map(str, problems)), pytrace=False)
        yield dispatcher


@pytest.fixture
def gateway(
    request: pytest.FixtureRequest, _coprocess_handlers: Loaded, _coprocess_dispatcher: InProcessDispatcher
) -> Gateway:
    """A simulated gateway before the project's handlers: `gateway.get("/x", headers={…})`."""
    from coprocess.errors import ConfigError
    from coprocess.testing.gateway import Gateway

    tested: TrialStore | None = None
    with suppress(ConfigError):  # As below.
        tested = request.getfixturevalue("_coprocess_store")
    try:
        definition = _definition(request, _coprocess_handlers)
        upstream = _marked(request).get("upstream")
        return Gateway(definition, _coprocess_dispatcher, upstream, _coprocess_handlers, tested)
    except (CoprocessError, TypeError) as error:
        _fail(error)


@pytest.fixture
def envoy(request: pytest.FixtureRequest) -> Iterator[Envoy]:
    """A simulated Envoy before the project's handlers: `envoy.get("/x", headers={…})`."""
    from coprocess.desk.envoy.trial import HandlerServer, config_in, config_of
    from coprocess.desk.envoy.wanted import wanted_of
    from coprocess.errors import ConfigError
    from coprocess.gateways.envoy.home import HOME
    from coprocess.process.chain_settings import load_chains
    from coprocess.process.settings_loading import load_settings
    from coprocess.testing.envoy import Envoy

    # Where there is no embedded server for this platform, handlers that use no store do without.
    with suppress(ConfigError):
        request.getfixturevalue("_coprocess_store")
    loaded = _loaded(request, HOME)
    root = request.config.rootpath
    try:
        chains = load_chains(base=root)
        settings = load_settings({}, base=root)
        with HandlerServer(loaded, chains=lambda: chains, timeout_s=settings.timeout_s) as server:
            if server.problems:
                texts = "\n".join(map(str, server.problems))
                pytest.fail(f"resources did not open:\n{texts}", pytrace=False)

            def config(chain: str, authz: bool) -> EnvoyConfig:
                if not chain and not authz and (root / "envoy.yaml").is_file():
                    return config_in(root / "envoy.yaml")
                return config_of(wanted_of(settings, loaded.table, chains, chain, is_authz=authz))

            yield Envoy(server, config, _marked(request).get("upstream"))
    except (CoprocessError, TypeError) as error:
        _fail(error)
    finally:
        loaded.forget()


@pytest.fixture
def kong(request: pytest.FixtureRequest) -> Iterator[Kong]:
    """A simulated Kong before the project's Kong plugins: `kong.get("/x", headers={…})`."""
    from coprocess.desk.kong.trial import plugin_servers
    from coprocess.errors import ConfigError
    from coprocess.testing.kong import Kong, only

    # As for `envoy`.
    with suppress(ConfigError):
        request.getfixturevalue("_coprocess_store")
    options = _marked(request)
    with ExitStack() as stack:
        try:
            lua_style = options.get("lua_style", True)
            servers = stack.enter_context(plugin_servers(_plugin_files(request), lua_style=lua_style))
            configs = options.get("config")
            if configs is not None and not (configs and set(configs) <= set(servers.infos)):
                configs = {only(list(servers.infos)): configs}
            made = Kong(
                servers,
                upstream=options.get("upstream"),
                configs=configs,
                declarative=_declarative(request, options.get("declarative")),
            )
        except (CoprocessError, TypeError, ValueError) as error:
            _fail(error)
        stack.callback(made.close)
        yield made


@pytest.fixture
def dispatch(_coprocess_dispatcher: InProcessDispatcher) -> Dispatch:
    """Calls one hook with one Object, in memory: `dispatch("Pre", "stamp", headers={…})`."""
    from coprocess.testing.dispatch import Dispatch

    return Dispatch(_coprocess_dispatcher)


def _fail(error: Exception) -> NoReturn:
    """Fail the test with the text alone, and say it once."""
    raise pytest.fail.Exception(str(error), pytrace=False) from None


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the test's markers say, the nearest first."""
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers(_MARKER):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in _OPTIONS)]
        if unknown:
            pytest.fail(
                f"@pytest.mark.coprocess takes {', '.join(f'{name}=' for name in _OPTIONS)}, not "
                f"{', '.join(unknown)}",
                pytrace=False,
            )
        options = {**marker.kwargs, **options}
    return options


def _folders(request: pytest.FixtureRequest) -> list[Path]:
    root = request.config.rootpath
    marked = _marked(request).get("handlers")
    if marked is not None:
        return [root / folder for folder in ([marked] if isinstance(marked, (str, Path)) else marked)]
    named: list[Path] = request.config.getini("coprocess_handlers")
    return named or [root / folder for folder in _DEFAULT_FOLDERS if (root / folder).is_dir()]


def _plugin_files(request: pytest.FixtureRequest) -> list[Path]:
    root = request.config.rootpath
    marked = _marked(request).get("plugins")
    if marked is not None:
        named = [marked] if isinstance(marked, (str, Path)) else marked
        return [root / each for each in named]
    found: list[Path] = request.config.getini("coprocess_plugins")
    files = found or sorted((root / "plugins").glob("*.py"))
    if not files:
        pytest.fail(
            f"no Kong plugins: expected plugins/*.py in {root}, the option coprocess_plugins, or "
            "@pytest.mark.coprocess(plugins=…)",
            pytrace=False,
        )
    return files


def _declarative(request: pytest.FixtureRequest, given: Any) -> Any:
    from coprocess.desk.kong.declarative import read_declarative

    return read_declarative(request.config.rootpath / given) if isinstance(given, (str, Path)) else given


def _definition(request: pytest.FixtureRequest, loaded: Loaded) -> ApiDefinition:
    from coprocess.desk.tyk.simulator import ApiDefinition
    from coprocess.desk.tyk.trial import find_definition, keyless_definition

    root = request.config.rootpath
    given = _marked(request).get("api") or request.config.getini("coprocess_api")
    if isinstance(given, ApiDefinition):
        return given
    if given:
        return ApiDefinition.parse(given) if isinstance(given, dict) else ApiDefinition.load(root / given)
    try:
        found = find_definition(root)
    except CoprocessError as error:
        pytest.fail(f"{error}, with the option coprocess_api or @pytest.mark.coprocess(api=…)", pytrace=False)
    return ApiDefinition.load(found) if found else keyless_definition(loaded.table)
