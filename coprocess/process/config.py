"""Settings: by flag, by `COPROCESS_*` variable, and in `coprocess.toml`, in that order.

All are checked at start. An error names the setting, where it came from and what was expected.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from coprocess.addresses import find_owner, is_local, normal_address
from coprocess.errors import ConfigError
from coprocess.process.secret_names import SHORTEST_KNOWN
from coprocess.store import parse_url
from coprocess.text import counted

PREFIX = "COPROCESS_"
#: Of variables that are an App's settings.
APP_PREFIX = f"{PREFIX}APP_"
CONFIG_FILE = "coprocess.toml"
OFF = "off"
#: Of `worker_listen`.
OWN = "own"
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
    worker_listen: Literal["front", "own"] = Field(
        default="front",
        description="Who holds the connections where there are workers: the front process; or own, which is "
        "each worker at one of the addresses, of which there are as many as workers.",
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
    http2_max_bytes_together: int = Field(
        default=1024 * 2**20,
        ge=65_536,
        description="Both, of all connections of a process: where it is more, each has an equal part.",
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
    traces_sample: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="The part of the calls that is traced, of those whose caller does not say whether to. "
        "Default: as OTEL_TRACES_SAMPLER says, all.",
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
        if self.envoy and self.workers > 1 and self.worker_listen != OWN:
            raise ValueError(
                "envoy and workers: one process serves a stream from its first message to its last. "
                "Expected: workers 1, or worker_listen own, and each worker's address in Envoy's cluster"
            )
        if self.tyk is False and not self.envoy:
            raise ValueError("tyk is off, and so is envoy: nothing is served. Expected: one of them")
        return self

    @model_validator(mode="after")
    def _each_worker_has_its_address(self) -> Settings:
        if self.worker_listen != OWN:
            return self
        if len(self.listen) != self.workers:
            raise ValueError(
                f"worker_listen own: listen has {counted(len(self.listen), 'address')}, "
                f"and workers is {self.workers}. "
                "Expected: as many addresses as workers, so that each has its own"
            )
        fixed = [address for address in self.listen if not address.endswith(":0")]
        twice = sorted({address for address in fixed if fixed.count(address) > 1})
        if twice:
            raise ValueError(
                f"worker_listen own: listen has {', '.join(twice)} twice. Expected: one address for each"
            )
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
    def _a_sample_is_of_traces(self) -> Settings:
        if self.traces_sample is not None and self.traces == OFF:
            raise ValueError("traces_sample goes with traces, which is off. Expected: traces otlp")
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
    if len(secret) < SHORTEST_KNOWN:
        raise ValueError(f"is too short: it has {len(secret)} characters. Expected: {SHORTEST_KNOWN} or more")
    if not (secret.isascii() and secret.isprintable()) or secret != secret.strip():
        raise ValueError("has characters that a header does not carry. Expected: printable ASCII")
