"""kong.conf: settings with their lines, and the plugin servers that they tell of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from coprocess.errors import ConfigError

_SETTING = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=\s*(.*)")
DEFAULT_PREFIX = "/usr/local/kong"
#: What `plugins` may list that comes with Kong 3.9 itself.
KONGS_OWN = frozenset(
    {
        *("bundled", "off", "acl", "acme", "ai-prompt-decorator", "ai-prompt-guard", "ai-prompt-template"),
        *("ai-proxy", "ai-request-transformer", "ai-response-transformer", "aws-lambda", "azure-functions"),
        *("basic-auth", "bot-detection", "correlation-id", "cors", "datadog", "file-log", "grpc-gateway"),
        *("grpc-web", "hmac-auth", "http-log", "ip-restriction", "jwt", "key-auth", "ldap-auth", "loggly"),
        *("oauth2", "opentelemetry", "post-function", "pre-function", "prometheus", "proxy-cache"),
        *("rate-limiting", "redirect", "request-size-limiting", "request-termination"),
        *("request-transformer", "response-ratelimiting", "response-transformer", "session"),
        *("standard-webhooks", "statsd", "syslog", "tcp-log", "udp-log", "zipkin"),
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line."""

    name: str
    value: str
    line: int


@dataclass(slots=True)
class Conf:
    """The file. Of a name that is set twice, the last counts, as for Kong."""

    path: Path
    settings: dict[str, Setting] = field(default_factory=dict)
    #: Lines that are neither settings nor comments.
    odd_lines: list[int] = field(default_factory=list)

    def value(self, name: str, default: str = "") -> str:
        return self.settings[name].value if name in self.settings else default

    def line(self, name: str) -> int:
        """0 where it is not set."""
        return self.settings[name].line if name in self.settings else 0

    def names(self, name: str) -> list[str]:
        """A list of names, parted by commas."""
        return [each.strip() for each in self.value(name).split(",") if each.strip()]

    @property
    def servers(self) -> list[PluginServer]:
        return [PluginServer(self, name.lower()) for name in self.names("pluginserver_names")]


@dataclass(frozen=True, slots=True)
class PluginServer:
    """One of `pluginserver_names`."""

    conf: Conf
    name: str

    @property
    def key(self) -> str:
        """How its settings begin."""
        return f"pluginserver_{self.name.replace('-', '_')}"

    @property
    def socket(self) -> str:
        default = f"{self.conf.value('prefix', DEFAULT_PREFIX)}/{self.name}.socket"
        return self.conf.value(f"{self.key}_socket", default)

    @property
    def start_cmd(self) -> str:
        return self.conf.value(f"{self.key}_start_cmd", _if_there(f"/usr/local/bin/{self.name}"))

    @property
    def query_cmd(self) -> str:
        return self.conf.value(f"{self.key}_query_cmd", _if_there(f"/usr/local/bin/query_{self.name}"))

    def line(self, what: str) -> int:
        """Of one of its settings, else of the list that names it."""
        return self.conf.line(f"{self.key}_{what}") or self.conf.line("pluginserver_names")


def _if_there(path: str) -> str:
    return path if Path(path).exists() else ""


def read_conf(path: Path) -> Conf:
    """Raises ConfigError where the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8") from None
    conf = Conf(path)
    for number, line in enumerate(text.splitlines(), 1):
        # A hash begins a comment, unless it is escaped.
        content = re.split(r"(?<!\\)#", line, maxsplit=1)[0].replace("\\#", "#").strip()
        if not content:
            continue
        found = _SETTING.fullmatch(content)
        if found is None:
            conf.odd_lines.append(number)
            continue
        value = found[2].strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        conf.settings[found[1]] = Setting(found[1], value, number)
    return conf
