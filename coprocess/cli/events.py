"""`coprocess events config`."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any

import typer

from coprocess.cli.options import Config, Handlers

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Events that reach @Event functions, over gRPC and as webhooks.",
)


@app.callback()
def _events() -> None:
    """Without it, the only command would take the group's name."""


def _expect_url(url: str) -> None:
    from urllib.parse import urlsplit

    from coprocess.errors import ConfigError

    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise ConfigError(f"--url {url}: is no URL of a server. Expected: http://HOST:PORT")


@app.command()
def config(
    handlers: Handlers = None,
    config: Config = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Where the gateway reaches events_listen. Default: there."),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="NAME", help="Only these. Repeatable. Default: all."),
    ] = None,
    api_id: Annotated[str, typer.Option("--api-id", help="The OAS definition's.")] = "API_ID",
    org_id: Annotated[str, typer.Option("--org-id", help="The OAS definition's.")] = "ORG_ID",
    template_path: Annotated[
        str, typer.Option("--template-path", metavar="PATH", help="Where the gateway finds the template.")
    ] = "templates/coprocess_event.json",
    as_json: Annotated[bool, typer.Option("--json", help="All parts in one JSON object.")] = False,
) -> None:
    """Print what to write at the gateway: the template, and the parts of definitions and tyk.conf.

    Webhooks are only where gRPC carries nothing. The secret is not printed.
    """
    from coprocess.api.moments import HookType
    from coprocess.desk.tyk.doctor.events import EVENTS
    from coprocess.desk.tyk.events_config import events_config
    from coprocess.errors import ConfigError
    from coprocess.gateways.tyk.home import HOME
    from coprocess.loading import loader
    from coprocess.process.config import OFF
    from coprocess.process.settings_loading import load_settings

    settings = load_settings({"handlers": handlers}, config)
    for name in event or ():
        if name not in EVENTS:
            near = difflib.get_close_matches(name, EVENTS, n=1, cutoff=0.5)
            expected = near[0] if near else ", ".join(EVENTS)
            raise ConfigError(f"--event {name}: the gateway fires no such event. Expected: {expected}")
    if not template_path.endswith(".json"):
        raise ConfigError(f"--template-path {template_path}: expected a name that ends in .json")
    if url is None:
        listen = settings.events_listen
        if listen == OFF:
            raise ConfigError("events_listen is off. Expected: an address in the settings, or --url")
        if listen.startswith("unix:"):
            raise ConfigError(
                f"events_listen is {listen}, which the gateway cannot reach itself. Expected: --url, of what "
                "passes webhooks on to it"
            )
        url = f"http://{listen}"
    _expect_url(url)
    loaded = loader.load(settings.folders, HOME)
    hooks = [hook for hook in loaded.table if hook.type is HookType.Event]
    if not hooks:
        raise ConfigError("no @Event function is loaded. Expected: one at least (coprocess check tells more)")
    made = events_config(
        hooks, url, events=event or (), api_id=api_id, org_id=org_id, template_path=template_path
    )
    if as_json:
        typer.echo(json.dumps(made, indent=2))
        return
    _show(f"The template, for the file {made['template_path']} at the gateway", made["template"])
    if made["tyk_conf"]:
        _show("tyk.conf: what no definition fires (put the secret in by hand)", made["tyk_conf"])
    _show_parts("", made)
    for api, parts in made["apis"].items():
        _show_parts(f" of the API {api}", parts)


def _show_parts(whose: str, parts: Any) -> None:
    if parts["classic"]["event_handlers"]["events"]:
        _show(f"Classic definitions{whose}: gRPC carries these", parts["classic"])
    if parts["oas"]["x-tyk-api-gateway"]["server"]["eventHandlers"]:
        _show(
            f"OAS definitions{whose}: they have webhooks only (the gateway's environment needs "
            "COPROCESS_EVENTS_SECRET)",
            parts["oas"],
        )


def _show(title: str, content: Any) -> None:
    typer.echo(f"# {title}")
    typer.echo(content if isinstance(content, str) else json.dumps(content, indent=2))
    typer.echo()
