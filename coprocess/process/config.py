"""Settings: by flag, by `COPROCESS_*` variable, and in `coprocess.toml`, in that order.

All are checked at start. An error names the setting, where it came from and what was expected.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from coprocess.addresses import find_owner, is_local, normal_address
from coprocess.errors import ConfigError
from coprocess.store import parse_url
from coprocess.text import printable

PREFIX = "COPROCESS_"
#: Of variables that are an App's settings.
APP_PREFIX = f"{PREFIX}APP_"
CONFIG_FILE = "coprocess.toml"
OFF = "off"
#: What the tables of routes in the file are below. It is no setting: see `route_settings`.
ROUTES = "routes"
#: The tables that Apps take as their settings.
APP = "app"
#: The tables of chains: see `chain_settings`.
CHAINS = "chains"
DEFAULT_FOLDERS = (Path("handlers"), Path("event_handlers"))

# A list in a variable: separated by commas.
StringList = Annotated[list[str], NoDecode]
PathList = Annotated[list[Path], NoDecode]


def _read_secret(setting: str, file: Path) -> str:
    try:
        secret = file.read_text().strip()
        check_secret(secret)
    except OSError as error:
        raise ConfigError(f"{setting} {file}: {error.strerror}") from None
    except ValueError as error:
        reason = "is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"{setting} {file}: {reason}") from None
    return secret


class Settings(BaseSettings):
    """Every setting of the service. The descriptions are the manual's."""

    # An empty variable is one that is not set, as in container files.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    listen: StringList = Field(
        default=["127.0.0.1:5555"], min_length=1, description="Addresses: HOST:PORT or unix:/path."
    )
    envoy: bool = Field(default=False, description="Serve Envoy: ext_proc and ext_authz.")
    tyk: bool | None = Field(
        default=None, description="Serve Tyk. Default: where no other gateway is served."
    )
    web: str | None = Field(
        default=None, description="Serve this web app with the handlers around it: MODULE:APP."
    )
    web_interface: Literal["auto", "asgi", "wsgi"] = Field(default="auto", description="What that app is.")
    web_chain: str | None = Field(
        default=None,
        description="The table [chains.NAME] whose handlers run around it. Default: all that is loaded.",
    )
    web_api_id: str = Field(default="", description="What spec.api_id says there.")
    web_org_id: str = Field(default="", description="What spec.org_id says there.")
    web_config: Annotated[dict[str, Any], NoDecode] = Field(
        default={}, description="What spec.config gives there: a table, or in the variable JSON of one."
    )
    handlers: PathList = Field(
        default=[],
        description="Folders with handlers. Default: handlers/ and event_handlers/ of the working folder.",
    )
    strict: bool = Field(default=False, description="Refuse to start when any handler cannot be loaded.")
    engine: Literal["auto", "http2", "grpcio", "native"] = Field(
        default="auto", description="The gRPC transport. auto is http2; native is an old name of it."
    )
    redis: str | None = Field(
        default=None,
        description="Store: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://. "
        "Default: an embedded Valkey.",
    )
    store_timeout_s: float = Field(default=1.0, gt=0, description="Deadline of a store operation.")
    store_required: bool = Field(
        default=False, description="Refuse to start when the store cannot be reached."
    )
    data_dir: Path = Field(default=Path(".coprocess"), description="Where the embedded store keeps its data.")
    store_fsync: Literal["everysec", "always"] = Field(
        default="everysec",
        description="When the embedded store writes to the disk: everysec may lose the last second when the "
        "machine dies; always loses nothing, and is slower.",
    )
    reload: bool = Field(default=False, description="Load handlers again when their files change.")
    resource_timeout_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="How long each resource of an App may take to open, or to close.",
    )
    settle_s: float = Field(
        default=1.0,
        ge=0,
        le=20,
        description="How long handler files must not have changed before they are loaded again.",
    )
    reflection: bool = Field(default=False, description="Offer gRPC server reflection.")
    admin: str = Field(
        default="127.0.0.1:9464",
        description="Address of /healthz, /readyz, /metrics and /hooks: HOST:PORT, unix:/path, or off.",
    )
    admin_hosts: StringList = Field(
        default=[], description="Names (Host) that requests to the admin listener may have, besides its own."
    )
    events_listen: str = Field(
        default=OFF,
        description="Address that takes events as webhooks: HOST:PORT, unix:/path, or off.",
    )
    events_secret: SecretStr | None = Field(
        default=None,
        description="What webhooks must show in the header X-Coprocess-Secret. By variable or file only, "
        "as other programs see flags.",
    )
    events_secret_file: Path | None = Field(
        default=None, description="File that holds events_secret, and nothing else."
    )
    events_max_bytes: int = Field(default=4 * 2**20, ge=1024, description="Largest body of a webhook.")
    request_state: bool = Field(
        default=False, description="Share `state` among the hooks of one request, in the store."
    )
    request_state_s: float = Field(default=60.0, gt=0, description="How long the state of a request is kept.")
    request_state_secret_file: Path | None = Field(
        default=None,
        description="File that holds the secret which signs the ids of requests. "
        "Default: one that is made up, and kept in the store.",
    )
    tls_cert: Path | None = Field(default=None, description="Certificate chain (PEM) for TLS.")
    tls_key: Path | None = Field(default=None, description="Its private key (PEM).")
    tls_client_ca: Path | None = Field(
        default=None, description="Mutual TLS: clients must show a certificate of these authorities (PEM)."
    )
    insecure_public: bool = Field(
        default=False, description="Allow plaintext gRPC on addresses that other machines can reach."
    )
    unix_socket_mode: Annotated[int, Field(ge=0, le=0o777)] = Field(
        default=0o600, description="Permissions of unix sockets, octal. Default: 0600."
    )
    unix_socket_owner: str | None = Field(
        default=None,
        description="Who owns unix sockets: USER, USER:GROUP or :GROUP, names or numbers. "
        "Default: who runs the service.",
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="Processes that run handlers, behind the same addresses."
    )
    worker_silence_s: float = Field(
        default=10.0,
        gt=0,
        description="How long a worker process may be silent (stopped, or in code that lets no other thread "
        "run) until it is killed and replaced.",
    )
    timeout_s: float = Field(default=30.0, gt=0, description="Time limit of a handler that sets none itself.")
    concurrency: int = Field(default=64, ge=1, description="Calls of one sync hook that run at one time.")
    async_concurrency: int = Field(
        default=4096, ge=1, description="Calls of one async hook that run at one time."
    )
    queue_size: int = Field(default=256, ge=0, description="Calls of one hook that wait; more are refused.")
    max_threads: int = Field(default=1024, ge=2, description="Threads for sync handlers.")
    max_message_bytes: int = Field(default=64 * 2**20, ge=1024, description="Largest message, both ways.")
    max_headers: int = Field(
        default=1000, ge=1, description="Headers of request and response in one message; more are refused."
    )
    http2_max_concurrent_streams: int = Field(
        default=10_000,
        ge=1,
        description="Calls of one connection at one time; further ones wait.",
    )
    http2_max_held_bytes: int = Field(
        default=128 * 2**20,
        ge=65_536,
        description="Messages of one connection whose calls have not ended; two of the largest in any case.",
    )
    http2_max_unsent_bytes: int = Field(
        default=128 * 2**20,
        ge=65_536,
        description="Replies that one connection does not read; two of the largest in any case.",
    )
    http2_idle_frames: int = Field(
        default=10_000,
        ge=100,
        description="Frames at once that bring nothing forward, such as resets and pings, of one connection.",
    )
    http2_idle_frames_per_s: int = Field(
        default=1_000, ge=1, description="The same, each second from then on."
    )
    http2_frame_timeout_s: float = Field(
        default=30.0, gt=0, description="From the first byte of a frame, or of a header block, to its last."
    )
    http2_request_timeout_s: float = Field(
        default=120.0, gt=0, description="From a unary call's headers to the end of its message."
    )
    http2_unread_timeout_s: float = Field(
        default=60.0, gt=0, description="How long a client may read nothing of what waits for it."
    )
    http2_keepalive_s: float = Field(
        default=300.0, ge=0, description="A client that was silent for so long is pinged. 0: never."
    )
    http2_keepalive_timeout_s: float = Field(
        default=20.0, gt=0, description="How long a ping may have no answer."
    )
    http2_idle_s: float = Field(
        default=0.0, ge=0, description="A connection without a call for so long is ended. 0: never."
    )
    http2_max_age_s: float = Field(
        default=0.0,
        ge=0,
        description="An older connection is ended, without losing a call: gateways connect anew, and spread. "
        "0: never.",
    )
    http2_age_grace_s: float = Field(
        default=60.0, gt=0, description="How long the calls of such a connection may go on."
    )
    failure_status: int | None = Field(
        default=None,
        ge=400,
        le=599,
        description="What clients get when a hook fails. Default: the gateway's own error.",
    )
    failure_retry_after_s: int | None = Field(
        default=None, ge=0, description="Retry-After that goes with failure_status."
    )
    full_reply: bool = Field(default=False, description="Send back all, and not only what the gateway reads.")
    drain_s: float = Field(
        default=0.0, ge=0, description="How long a stop goes on serving, marked as not healthy."
    )
    shutdown_timeout_s: float = Field(
        default=30.0, ge=0, description="How long a stop waits for calls in flight."
    )
    traces: Literal["off", "otlp"] = Field(
        default="off",
        description="OpenTelemetry traces, sent to a collector as the variables OTEL_* say. Default: off.",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="auto: text on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level."
    )

    @field_validator("listen", "handlers", "admin_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("web_config", mode="before")
    @classmethod
    def _table(cls, value: Any) -> Any:
        try:
            table = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            table = None
        if not isinstance(table, dict):
            raise ValueError("expected a table, or in the variable JSON of one")
        return table

    @field_validator("redis")
    @classmethod
    def _store_url(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                parse_url(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return [normal_address(address) for address in value]

    @field_validator("events_secret")
    @classmethod
    def _secret_fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_secret(value.get_secret_value())
        return value

    @field_validator("admin", "events_listen")
    @classmethod
    def _admin_address(cls, value: str) -> str:
        return value if value == OFF else normal_address(value)

    @field_validator("unix_socket_mode", mode="before")
    @classmethod
    def _octal(cls, value: Any) -> Any:
        # In TOML, 0o660 is a number already.
        try:
            return int(value, 8) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"{value!r}: expected octal permissions, such as 0660") from None

    @field_validator("unix_socket_owner")
    @classmethod
    def _known_owner(cls, value: str | None) -> str | None:
        if value is not None:
            find_owner(value)
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together, and only one is set")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca goes with tls_cert and tls_key, which are not set")
        return self

    @model_validator(mode="after")
    def _a_web_app_is_served_alone(self) -> Settings:
        if self.web is None:
            return self
        if self.envoy or self.tyk:
            raise ValueError(
                "web goes with no gateway, neither tyk nor envoy. Expected: a service of its own"
            )
        if self.workers > 1:
            raise ValueError(
                "web and workers: one process serves it. Expected: workers 1, and several services"
            )
        if self.tls_cert is not None:
            raise ValueError("web and tls_cert: the app's server is plaintext. Expected: TLS in front of it")
        return self

    @model_validator(mode="after")
    def _streams_need_one_process(self) -> Settings:
        if self.envoy and self.workers > 1:
            raise ValueError(
                "envoy and workers: one process serves a stream from its first message to its last. "
                "Expected: workers 1, and several services in Envoy's cluster"
            )
        if self.tyk is False and not self.envoy:
            raise ValueError("tyk is off, and so is envoy: nothing is served. Expected: one of them")
        return self

    @model_validator(mode="after")
    def _nothing_public_in_plaintext(self) -> Settings:
        public = [address for address in self.listen if not is_local(address)]
        if public and self.tls_cert is None and not self.insecure_public:
            raise ValueError(
                f"listen {', '.join(public)}: other machines can reach it, and it is plaintext. Expected: "
                "a loopback address or a unix socket, or tls_cert and tls_key, or insecure_public"
            )
        return self

    @model_validator(mode="after")
    def _webhooks_are_guarded(self) -> Settings:
        if self.events_listen == OFF:
            return self
        if (self.events_secret is None) == (self.events_secret_file is None):
            raise ValueError(
                "events_listen needs a secret, so that nobody else sends events. Expected: one of "
                "events_secret and events_secret_file"
            )
        if not is_local(self.events_listen) and not self.insecure_public:
            raise ValueError(
                f"events_listen {self.events_listen}: other machines can reach it, and it is plaintext. "
                "Expected: a loopback address or a unix socket, or insecure_public"
            )
        return self

    def read_request_state_secret(self) -> str | None:
        """None where the settings name none. Raises ConfigError, as `read_events_secret`."""
        file = self.request_state_secret_file
        return None if file is None else _read_secret("request_state_secret_file", file)

    def read_events_secret(self) -> str:
        """Raises ConfigError where the file cannot be read, or holds no secret."""
        if self.events_secret is not None:
            return self.events_secret.get_secret_value()
        assert self.events_secret_file is not None  # noqa: S101 - `_webhooks_are_guarded` has seen to it
        return _read_secret("events_secret_file", self.events_secret_file)

    @model_validator(mode="after")
    def _fsync_is_the_embedded_stores(self) -> Settings:
        if self.redis is not None and "store_fsync" in self.model_fields_set:
            raise ValueError(
                "store_fsync is for the embedded store, but redis names another server, which has its own "
                "appendfsync. Expected: one of the two"
            )
        return self

    @model_validator(mode="after")
    def _retry_after_needs_status(self) -> Settings:
        if self.failure_retry_after_s is not None and self.failure_status is None:
            raise ValueError("failure_retry_after_s goes with failure_status, which is not set")
        return self

    @property
    def folders(self) -> list[Path]:
        """The handler folders: those that are named, else the default ones that exist."""
        return self.handlers or [folder for folder in DEFAULT_FOLDERS if folder.is_dir()]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Flags and the file come as one, by `load_settings`, which knows which is which.
        return (init_settings, env_settings)


def check_secret(secret: str) -> None:
    """Raises ValueError, without the secret, where a header cannot carry it."""
    if not secret:
        raise ValueError("is empty. Expected: a secret")
    if not (secret.isascii() and secret.isprintable()) or secret != secret.strip():
        raise ValueError("has characters that a header does not carry. Expected: printable ASCII")


def load_settings(flags: Mapping[str, Any], config_file: Path | None = None, base: Path = Path()) -> Settings:
    """The settings out of `flags` (None: not given), the environment and the file.

    `config_file` None: `coprocess.toml` of the folder `base`, if there is one. Raises ConfigError.
    """
    flags = {name: value for name, value in flags.items() if value is not None}
    path, from_file = settings_file(config_file, base)
    # They can change while the service runs: see `route_settings`, `app_settings`.
    from_file.pop(ROUTES, None)
    from_file.pop(APP, None)
    from_file.pop(CHAINS, None)
    variables = {name: f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    # Variables are read whatever their case.
    set_variables = {variable.upper() for variable, value in os.environ.items() if value}
    from_file = {name: value for name, value in from_file.items() if variables.get(name) not in set_variables}

    def source(name: str) -> str:
        if name in flags:
            return f"--{name.replace('_', '-')}"
        return variables[name] if variables.get(name) in set_variables else f"{path}: {name}"

    def is_given(name: str) -> bool:
        return name in flags or name in from_file or variables[name] in set_variables

    problems = list(_misspelt_variables(set_variables))
    settings: Settings | None = None
    try:
        settings = Settings(**{**from_file, **flags})
    except ValidationError as error:
        for detail in error.errors():
            # What is wrong with several settings together has no place of its own, but names them.
            names = [str(place) for place in detail["loc"][:1]] or [
                name for name in variables if is_given(name) and re.search(rf"\b{name}\b", detail["msg"])
            ]
            sources = ", ".join(map(source, names)) or "settings"
            problems.append(f"{sources}: {expectation(detail, names[0] if names else '')}")
    if problems or settings is None:
        raise ConfigError("\n".join(problems))
    return settings


def _misspelt_variables(names: Iterable[str]) -> Iterator[str]:
    """What is wrong with variables that are named like settings, and are none. Their values are not shown."""
    for variable in sorted(names):
        name = variable.removeprefix(PREFIX).lower()
        is_ours = variable.startswith(PREFIX) and not _OTHERS_VARIABLE.fullmatch(variable)
        is_ours = is_ours and not variable.startswith(APP_PREFIX)
        if is_ours and name == ROUTES:
            where = f"routes are tables of {CONFIG_FILE}: [{ROUTES}.NAME]"
            yield f"{printable(variable)}: no such setting; {where}"
        elif is_ours and name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            yield f"{printable(variable)}: no such setting{hint}"


# Of a new project's Makefile, and those that Kubernetes sets for services whose name begins with "coprocess".
_OTHERS_VARIABLE = re.compile(
    rf"{PREFIX}(VERSION|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))"
)


def expectation(detail: Any, name: str, model: type[BaseModel] = Settings) -> str:
    """What an error of pydantic says of the setting `name`."""
    if detail["type"] == "extra_forbidden":
        return "no such setting" + _hint(name, detail["input"], model)
    if detail["type"] == "missing":
        return "is not set"
    message: str = detail["msg"].removeprefix("Value error, ")
    # A secret is not shown; a URL may hold a password.
    given = (
        ""
        if name in ("redis", "events_secret") or detail["type"] == "value_error"
        else f" (got {detail['input']!r})"
    )
    return message + given


def _hint(name: str, value: Any, model: type[BaseModel]) -> str:
    """The setting that may be meant by an unknown one. Tables are for routes alone."""
    known = list(model.model_fields)
    if model is Settings:
        known = [ROUTES] if isinstance(value, dict) else [*known, ROUTES]
    near = difflib.get_close_matches(name, known, n=1)
    if near == [ROUTES]:
        return f"; did you mean [{ROUTES}.NAME]?"
    if near:
        return f"; did you mean {near[0]}?"
    if isinstance(value, dict):
        return f". The only tables are [{APP}] and those of routes: [{ROUTES}.{name}]"
    return ""


def settings_file(config_file: Path | None, base: Path = Path()) -> tuple[Path, dict[str, Any]]:
    """The settings file and what it says; nothing where none was named, and the default one is not there.

    `base` is the folder that a relative path begins at.
    """
    path = base / (config_file or CONFIG_FILE)
    try:
        # Also a link that leads nowhere, as while a volume is mounted: to go on without settings would open
        # what they close.
        is_there = config_file is not None or path.exists() or path.is_symlink()
        if config_file is None and path.exists() and not (path.is_file() or path.is_dir()):
            # A pipe would be waited for.
            raise ConfigError(f"{path}: is no file. Expected: settings, as TOML")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return path, _read_file(path) if is_there else {}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # Of TOML, of UTF-8, and of numbers with too many digits.
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply. Expected: settings, as lines or tables") from None
