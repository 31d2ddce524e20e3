"""Settings: which source wins, and what an error says of where it came from."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from coprocess.addresses import normal_address
from coprocess.errors import ConfigError
from coprocess.process.config import PREFIX, Settings
from coprocess.process.settings_loading import load_settings
from tests.loading import write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(flags: dict[str, Any] | None = None, config: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(flags or {}, config)
    return str(caught.value)


def test_defaults() -> None:
    settings = load_settings({})

    assert settings.listen == ["127.0.0.1:5555"]
    assert settings.engine == "auto"
    assert settings.data_dir == Path(".coprocess")
    assert settings.redis is None
    assert not settings.strict


def test_flag_wins_over_variable_and_variable_over_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"coprocess.toml": "queue_size = 1\nconcurrency = 1\nmax_threads = 11\n"})
    monkeypatch.setenv("COPROCESS_QUEUE_SIZE", "2")
    monkeypatch.setenv("COPROCESS_CONCURRENCY", "2")

    settings = load_settings({"queue_size": "3", "concurrency": None})

    assert (settings.queue_size, settings.concurrency, settings.max_threads) == (3, 2, 11)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_variable_that_wins_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(folder, {"coprocess.toml": f'{name} = "from the file"'})
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", "no such value")

    # Some settings take any text.
    outcome = outcome_of(name)
    assert "no such value" in outcome or f"{PREFIX}{name.upper()}: " in outcome
    assert "from the file" not in outcome
    assert "coprocess.toml" not in outcome


def outcome_of(name: str) -> str:
    try:
        value = getattr(load_settings({}), name)
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    except ConfigError as error:
        return str(error)


def test_file_elsewhere(folder: Path) -> None:
    path = write(folder / "etc", {"mine.toml": 'listen = ["127.0.0.1:1", "unix:/run/x"]\n'}) / "mine.toml"

    assert load_settings({}, path).listen == ["127.0.0.1:1", "unix:/run/x"]


def test_lists_in_variables_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_LISTEN", "127.0.0.1:1, unix:///run/x ,")
    monkeypatch.setenv("COPROCESS_HANDLERS", "a,b/c")

    settings = load_settings({})

    assert settings.listen == ["127.0.0.1:1", "unix:/run/x"]
    assert settings.handlers == settings.folders == [Path("a"), Path("b/c")]


def test_empty_variable_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {"coprocess.toml": "queue_size = 7\n"})
    for name in ("LISTEN", "REDIS", "QUEUE_SIZE", "STRICT"):
        monkeypatch.setenv(f"COPROCESS_{name}", "")

    settings = load_settings({})

    assert (settings.listen, settings.redis, settings.queue_size) == (["127.0.0.1:5555"], None, 7)


def test_case_of_variables_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {"coprocess.toml": "queue_size = 7\n"})
    monkeypatch.setenv("coprocess_queue_size", "8")

    assert load_settings({}).queue_size == 8


def test_variables_that_are_no_settings_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets most of these for a service that is called coprocess."""
    monkeypatch.setenv("COPROCESS_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("COPROCESS_SERVICE_PORT", "5555")
    monkeypatch.setenv("COPROCESS_PORT", "tcp://10.0.0.1:5555")
    monkeypatch.setenv("COPROCESS_PORT_5555_TCP", "tcp://10.0.0.1:5555")
    monkeypatch.setenv("COPROCESS_PORT_5555_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("COPROCESS_SERVICE_PORT_GRPC", "5555")
    monkeypatch.setenv("COPROCESS_CANARY_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("COPROCESS_CANARY_PORT_5555_TCP_PROTO", "tcp")
    monkeypatch.setenv("COPROCESS_VERSION", "0.1.0")
    monkeypatch.setenv("COPROCESSES", "5")
    monkeypatch.setenv("COPROCESS_LISEN", "")

    assert load_settings({}) == Settings()


def test_misspelt_variables_are_told_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_LISEN", "127.0.0.1:1")
    monkeypatch.setenv("coprocess_reddis", "redis://:geheim@host")
    monkeypatch.setenv("COPROCESS_ZZZ", "geheim")
    monkeypatch.setenv("COPROCESS_CONCURRENCY", "0")

    lines = refusal().splitlines()

    assert lines[:3] == [
        "COPROCESS_LISEN: no such setting; did you mean COPROCESS_LISTEN?",
        "COPROCESS_REDDIS: no such setting; did you mean COPROCESS_REDIS?",
        "COPROCESS_ZZZ: no such setting",
    ]
    # What else is wrong is told, too.
    assert [line.partition(":")[0] for line in lines[3:]] == ["COPROCESS_CONCURRENCY"]


def test_default_folders_are_those_that_exist(folder: Path) -> None:
    assert load_settings({}).folders == []
    (folder / "event_handlers").mkdir()
    assert load_settings({}).folders == [Path("event_handlers")]
    (folder / "handlers").mkdir()
    assert load_settings({}).folders == [Path("handlers"), Path("event_handlers")]
    assert load_settings({"handlers": [Path("mine")]}).folders == [Path("mine")]


def test_error_names_the_flag() -> None:
    assert refusal({"queue_size": "many"}).startswith("--queue-size: Input should be a valid integer")
    assert refusal({"queue_size": "many"}).endswith("(got 'many')")


def test_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_ENGINE", "steam")

    assert (
        refusal() == "COPROCESS_ENGINE: Input should be 'auto', 'http2', 'grpcio' or 'native' (got 'steam')"
    )


def test_error_names_the_file(folder: Path) -> None:
    write(folder, {"coprocess.toml": "timeout_s = 0\n"})

    assert refusal().startswith("coprocess.toml: timeout_s: Input should be greater than 0")


def test_all_errors_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_CONCURRENCY", "0")

    text = refusal({"engine": "steam", "max_threads": "1"})

    assert sorted(line.partition(":")[0] for line in text.splitlines()) == [
        "--engine",
        "--max-threads",
        "COPROCESS_CONCURRENCY",
    ]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", ""),
        ("5555", "no port; "),
        (":5555", "no host, such as 127.0.0.1:5555; "),
        ("[]:5555", "no host, such as 127.0.0.1:5555; "),
        ("host", "no port; "),
        ("host:", "no port; "),
        ("host:99999", "port 99999 is over 65535; "),
        (":99999", "port 99999 is over 65535; "),
        ("host:x", "'x' is no port; "),
        ("host:-1", "'-1' is no port; "),
        ("::1:5555", "an IPv6 address stands in brackets, as in [::1]:5555; "),
        ("http://host:80", ""),
        ("unix:", "no path; "),
        ("unix:/dir/", "a folder is no socket; "),
    ],
)
@pytest.mark.parametrize("name", ["listen", "admin"])
def test_error_of_an_address_shows_it_and_what_is_wrong(name: str, address: str, why: str) -> None:
    given = [address] if name == "listen" else address
    assert refusal({name: given}) == f"--{name}: {address!r}: {why}expected HOST:PORT or unix:/path"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[rutes]\nx = 1", "; did you mean [routes.NAME]?"),
        ("[route.canary]\nweight_percent = 5", "; did you mean [routes.NAME]?"),
        ("[canary]\nweight_percent = 5", ". The only tables are [app] and those of routes: [routes.canary]"),
        ("[redi]\nurl = 'x'", ". The only tables are [app] and those of routes: [routes.redi]"),
        ("rutes = 5", "; did you mean [routes.NAME]?"),
        ("redi = 'x'", "; did you mean redis?"),
        ("timeout = 1", "; did you mean timeout_s?"),
        ("loglevel = 'x'", "; did you mean log_level?"),
        # Near to settings that mean something else: worker_listen, admin_hosts, request_state.
        ("web_listen = 'x'", ""),
        ("admin_port = 1", ""),
        ("request_store = 1", ""),
    ],
)
def test_a_misspelt_table_is_no_misspelt_setting(folder: Path, text: str, hint: str) -> None:
    write(folder, {"coprocess.toml": text})
    name = text.strip("[").replace(".", "]").partition("]" if text[0] == "[" else " ")[0]

    assert refusal() == f"coprocess.toml: {name}: no such setting{hint}"


def test_routes_in_a_variable_are_told_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_ROUTES", "x")

    assert refusal() == (
        "COPROCESS_ROUTES: no such setting; routes are tables of coprocess.toml: [routes.NAME]"
    )


def test_settings_that_do_not_go_together_name_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_TLS_CERT", "cert.pem")

    assert refusal({"failure_retry_after_s": "5"}).startswith("COPROCESS_TLS_CERT: tls_cert and tls_key")
    monkeypatch.delenv("COPROCESS_TLS_CERT")
    assert refusal({"failure_retry_after_s": "5"}) == (
        "--failure-retry-after-s: failure_retry_after_s goes with failure_status, which is not set"
    )


def test_durability_is_not_promised_for_a_store_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROCESS_REDIS", "redis://127.0.0.1:1/0")

    assert refusal({"store_fsync": "always"}).startswith(
        "COPROCESS_REDIS, --store-fsync: store_fsync is for the embedded store"
    )
    assert load_settings({}).redis is not None
    monkeypatch.delenv("COPROCESS_REDIS")
    assert load_settings({"store_fsync": "always"}).store_fsync == "always"


def test_plaintext_for_other_machines_has_to_be_asked_for() -> None:
    assert refusal({"listen": ["0.0.0.0:5555"]}).startswith(
        "--listen: listen 0.0.0.0:5555: other machines can"
    )
    assert load_settings({"listen": ["0.0.0.0:5555"], "insecure_public": True}).listen == ["0.0.0.0:5555"]


def test_unknown_key_of_the_file_names_a_near_miss(folder: Path) -> None:
    write(folder, {"coprocess.toml": "lisen = ['127.0.0.1:1']\nzzz = 1\n"})

    assert refusal().splitlines() == [
        "coprocess.toml: lisen: no such setting; did you mean listen?",
        "coprocess.toml: zzz: no such setting",
    ]


def test_file_that_is_not_toml(folder: Path) -> None:
    write(folder, {"coprocess.toml": "listen = \n"})

    assert refusal().startswith("coprocess.toml: not TOML: ")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (os.mkfifo, "is no file"),
    ],
)
def test_settings_that_are_there_and_no_file_are_not_passed_over(
    folder: Path, make: Callable[[Path], object], says: str
) -> None:
    """The service ran without them, as with all that they close open."""
    make(folder / "coprocess.toml")

    assert says in refusal()


def test_file_that_is_not_text(folder: Path) -> None:
    (folder / "coprocess.toml").write_bytes(b"\xff")

    assert refusal().startswith("coprocess.toml: not TOML: ")


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_file_that_is_named_must_be_there(name: str) -> None:
    assert refusal(config=Path(name)).startswith(f"{name}: cannot be read: ")


@pytest.mark.parametrize("wrong", [5, ["redis://:geheim@host"], {"url": "redis://:geheim@host"}, True])
def test_password_of_the_store_is_never_shown(wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"redis": wrong})

    assert "".join(traceback.format_exception(caught.value)).count("geheim") == 0
    assert str(caught.value).startswith("--redis: ")


def test_password_under_a_misspelt_key_is_not_shown(folder: Path) -> None:
    write(folder, {"coprocess.toml": 'reddis = "redis://:geheim@host"\n'})

    assert refusal() == "coprocess.toml: reddis: no such setting; did you mean redis?"


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("127.0.0.1:5555", "127.0.0.1:5555"),
        ("tcp://127.0.0.1:5555", "127.0.0.1:5555"),
        ("localhost:0", "localhost:0"),
        ("[::1]:5555", "[::1]:5555"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:relative.sock", "unix:relative.sock"),
    ],
)
def test_addresses_are_taken_as_gateways_write_them(given: str, normal: str) -> None:
    assert normal_address(given) == normal


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:80", "127.0.0.1/x:80", "::1:5555", "127.0.0.1:\u0665", "[::1:5"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT or unix:/path"):
        normal_address(address)


@given(st.text(max_size=30))
def test_an_address_is_normal_or_refused(text: str) -> None:
    try:
        address = normal_address(text)
    except ValueError:
        return
    assert normal_address(address) == address


@pytest.mark.parametrize("name", ["timeout_s", "store_timeout_s", "drain_s", "shutdown_timeout_s"])
def test_a_time_without_end_is_refused(name: str) -> None:
    """A stop that drains for ever would have to be killed."""
    flag = f"--{name.replace('_', '-')}"
    assert refusal({name: "inf"}) == f"{flag}: Input should be a finite number (got 'inf')"
