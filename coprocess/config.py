"""Settings: by flag, by `COPROCESS_*` variable, and in `coprocess.toml`, in that order.

All are checked at start. An error names the setting, where it came from and what was expected.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from coprocess.errors import ConfigError

PREFIX = "COPROCESS_"
CONFIG_FILE = "coprocess.toml"
DEFAULT_FOLDERS = (Path("handlers"), Path("event_handlers"))

# A list in a variable: separated by commas.
StringList = Annotated[list[str], NoDecode]
PathList = Annotated[list[Path], NoDecode]


class Settings(BaseSettings):
    """Every setting of the service. The descriptions are the manual's."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    listen: StringList = Field(
        default=["127.0.0.1:5555"], min_length=1, description="Addresses: HOST:PORT or unix:/path."
    )
    handlers: PathList = Field(
        default=[],
        description="Folders with handlers. Default: handlers/ and event_handlers/ of the working folder.",
    )
    strict: bool = Field(default=False, description="Refuse to start when any handler cannot be loaded.")
    engine: Literal["auto", "native", "grpcio"] = Field(default="auto", description="The gRPC transport.")
    redis: str | None = Field(
        default=None,
        description="Store: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://. "
        "Default: an embedded Valkey.",
    )
    store_timeout_s: float = Field(default=1.0, gt=0, description="Deadline of a store operation.")
    data_dir: Path = Field(default=Path(".coprocess"), description="Where the embedded store keeps its data.")
    timeout_s: float = Field(default=30.0, gt=0, description="Time limit of a handler that sets none itself.")
    concurrency: int = Field(default=64, ge=1, description="Calls of one sync hook that run at one time.")
    async_concurrency: int = Field(
        default=4096, ge=1, description="Calls of one async hook that run at one time."
    )
    queue_size: int = Field(default=256, ge=0, description="Calls of one hook that wait; more are refused.")
    max_threads: int = Field(default=256, ge=2, description="Threads for sync handlers.")
    max_message_bytes: int = Field(default=64 * 2**20, ge=1024, description="Largest message, both ways.")
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
    shutdown_timeout_s: float = Field(
        default=30.0, ge=0, description="How long a stop waits for calls in flight."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="auto: text on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level."
    )

    @field_validator("listen", "handlers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return [normal_address(address) for address in value]

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


def normal_address(address: str) -> str:
    """`HOST:PORT` or `unix:/path`, from the spellings that gateways use too. Raises ValueError."""
    expected = f"{address!r}: expected HOST:PORT or unix:/path"
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        path = path.removeprefix("//")
        if not path or path.endswith("/"):
            raise ValueError(expected)
        return f"unix:{path}"
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(expected)
    return f"{host}:{port}"


def load_settings(flags: Mapping[str, Any], config_file: Path | None = None) -> Settings:
    """The settings out of `flags` (None: not given), the environment and the file.

    `config_file` None: `coprocess.toml` of the working folder, if there is one. Raises ConfigError.
    """
    flags = {name: value for name, value in flags.items() if value is not None}
    path = config_file or Path(CONFIG_FILE)
    from_file = _read_file(path) if config_file or path.is_file() else {}
    variables = {name: f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    from_file = {name: value for name, value in from_file.items() if variables.get(name) not in os.environ}
    try:
        return Settings(**{**from_file, **flags})
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            name = str(detail["loc"][0]) if detail["loc"] else ""
            if name in flags:
                source = f"--{name.replace('_', '-')}"
            elif variables.get(name) in os.environ:
                source = variables[name]
            else:
                source = f"{path}: {name}" if name else "settings"
            problems.append(f"{source}: {_expectation(detail, name)}")
        raise ConfigError("\n".join(problems)) from None


def _expectation(detail: Any, name: str) -> str:
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return "no such setting" + (f"; did you mean {near[0]}?" if near else "")
    message: str = detail["msg"].removeprefix("Value error, ")
    # A URL may hold a password: it is not shown.
    given = "" if name == "redis" or detail["type"] == "value_error" else f" (got {detail['input']!r})"
    return message + given


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
