"""`coprocess call`."""

from __future__ import annotations

import base64
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import ParseDict, ParseError

from coprocess.addresses import normal_address
from coprocess.api.app import configuring
from coprocess.api.http import canonical_name
from coprocess.cli.attempt import Data, expect_request_line, given_bytes, request_header
from coprocess.cli.options import Address, Config, Handlers, Tls, TlsCa, TlsCert, TlsKey, TlsName, client_tls
from coprocess.desk.json_files import parse_json, read_json, read_text
from coprocess.desk.tyk.bundle import checksum
from coprocess.desk.tyk.one_object import TYPES, object_of, received
from coprocess.desk.tyk.simulator import RpcError
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.objects import GatewayResponse
from coprocess.desk.tyk.trial import ClientTls, GrpcDispatcher, dispatcher_of
from coprocess.desk.tyk.trial.changes import changes
from coprocess.error_text import format_error, is_not_ours
from coprocess.errors import ConfigError, CoprocessError
from coprocess.gateways.tyk.home import HOME
from coprocess.gateways.tyk.wire import HookType, Object, SessionState
from coprocess.loading import loader
from coprocess.process.app_settings import load_app_settings
from coprocess.process.config import Settings
from coprocess.process.route_settings import load_routes
from coprocess.process.settings_loading import load_settings
from coprocess.text import block, indented


def call(
    hook_type: Annotated[str, typer.Argument(help="Pre, CustomKeyCheck, PostKeyAuth, Post or Response.")],
    name: Annotated[str, typer.Argument(help="The hook's name.")],
    method: Annotated[str, typer.Option("--method", "-X", help="HTTP method.")] = "GET",
    url: Annotated[str, typer.Option("--url", help="Path and query of the request.")] = "/",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", help="Header of the request, NAME: VALUE. Repeatable."),
    ] = None,
    data: Data = None,
    status: Annotated[int, typer.Option("--status", help="For Response: the upstream's status.")] = 200,
    response_data: Annotated[
        str, typer.Option("--response-data", metavar="BODY", help="For Response: its body; @FILE reads it.")
    ] = "",
    api_id: Annotated[str, typer.Option("--api-id", help="The API that the call is of.")] = "",
    config_data: Annotated[str, typer.Option("--config-data", help="The API's config data, JSON.")] = "",
    bundle: Annotated[
        str,
        typer.Option("--bundle", help="The bundle that the API names: chooses among handlers of one name."),
    ] = "",
    session: Annotated[
        str,
        typer.Option(
            "--session", metavar="JSON", help='The caller\'s session, \'{"alias": "x"}\'; @FILE reads it.'
        ),
    ] = "",
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Metadata. Repeatable.")
    ] = None,
    recording: Annotated[
        Path | None, typer.Option("--recording", help="Send the Object of this recording instead.")
    ] = None,
    address: Address = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
    handlers: Handlers = None,
    config: Config = None,
) -> None:
    """Send one Object to a hook and show what the handler changed.

    Handlers that run here have the store of the settings or, where these name none, an empty one.
    """
    if hook_type == "Event":
        raise ConfigError(
            f"an event handler takes no request, which this command sends. Expected: {', '.join(TYPES)}. "
            "`coprocess try` runs the events of a request too, and in a test "
            f'`dispatch.event("{name}", "AuthFailure", meta={{}})` sends one'
        )
    if recording is not None:
        sent = _from_recording(recording, hook_type, name)
    else:
        try:
            sent = _from_flags(
                hook_type,
                name,
                method,
                url,
                header or [],
                given_bytes("--data", data or ""),
                (status, given_bytes("--response-data", response_data)),
                api_id,
                config_data,
            )
        except UnicodeEncodeError:
            raise ConfigError("an option or argument is not UTF-8. Expected: text") from None
    _add_caller(sent, bundle, session, metadata or [])
    security = client_tls(address, tls, tls_ca, tls_cert, tls_key, tls_name)
    payload = sent.SerializeToString()
    if address is not None:
        reply = _over_grpc(address, payload, security)
    else:
        reply = in_process(payload, load_settings({"handlers": handlers}, config), config)
    for line in changes(sent, Object.FromString(reply)):
        typer.echo(line)


def _from_flags(
    hook_type: str,
    name: str,
    method: str,
    url: str,
    headers: list[str],
    data: bytes,
    response: tuple[int, bytes],
    api_id: str,
    config_data: str,
) -> Object:
    if hook_type not in TYPES:
        raise ConfigError(f"{hook_type!r} is no hook type. Expected: {', '.join(TYPES)}")
    pairs = [(canonical_name(name), value) for name, value in map(request_header, headers)]
    expect_request_line(method, url)
    try:
        request = received(method, url, pairs, data)
    except ValueError as error:
        raise ConfigError(f"no gateway takes this request: {error}") from None
    status, body = response
    if not 100 <= status <= 999:
        raise ConfigError(f"--status {status}. Expected: a status, 100 to 999")
    answer = GatewayResponse(status, GoHeader.received([]), body)
    sent = object_of(hook_type, name, request, response=answer, api_id=api_id)
    if config_data:
        _expect_object(config_data)
        sent.spec["config_data"] = config_data
    return sent


def _expect_object(config_data: str) -> None:
    try:
        value = parse_json(config_data)
    except ValueError as error:
        raise ConfigError(f"--config-data: {error}. Expected: a JSON object") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--config-data {config_data:.80}: is no object. Expected: a JSON object")


def _add_caller(sent: Object, bundle: str, session: str, metadata: list[str]) -> None:
    """What the gateway knows beside the request; of a recording, in place of what it has."""
    if bundle:
        # As the gateway names it: by the MD5 of its name.
        sent.spec["bundle_hash"] = bundle if _MD5.fullmatch(bundle) else checksum(bundle.encode())
    if session:
        sent.session.CopyFrom(_session_of(session))
    for line in metadata:
        key, equals, value = line.partition("=")
        if not equals or not key:
            raise ConfigError(f"--metadata {line!r}: expected KEY=VALUE")
        sent.metadata[key] = value


_MD5 = re.compile("[0-9a-f]{32}")


def _session_of(given: str) -> SessionState:
    place = f"--session {given}" if given.startswith("@") else "--session"
    try:
        value = read_json(Path(given[1:])) if given.startswith("@") else parse_json(given)
        if not isinstance(value, dict):
            raise ValueError("is no JSON object")
        return ParseDict(value, SessionState())
    except (ValueError, ParseError) as error:
        fields = ", ".join(field.name for field in SessionState.DESCRIPTOR.fields)
        reason = " ".join(str(error).split())
        raise ConfigError(f"{place}: {reason}. Expected: a JSON object with some of {fields}") from None


def _from_recording(path: Path, hook_type: str, name: str) -> Object:
    text = read_text(path)
    try:
        recording = parse_json(text)
        objects = [Object.FromString(base64.b64decode(entry["object"])) for entry in recording["dispatches"]]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is no recording
        raise ConfigError(f"{path}: not a recording: {type(error).__name__}: {error}") from None
    for sent in objects:
        if HookType.Name(sent.hook_type) == hook_type:
            sent.hook_name = name
            return sent
    found = ", ".join(HookType.Name(sent.hook_type) for sent in objects) or "none"
    raise ConfigError(f"{path}: has no {hook_type} dispatch. It has: {found}")


def in_process(payload: bytes, settings: Settings, config: Path | None) -> bytes:
    """The complete reply of the handlers that are loaded here."""
    from coprocess.desk.store import trial_store

    with configuring(load_app_settings(config)):
        loaded = loader.load(settings.folders, HOME, load_routes(config))
    for problem in loaded.problems:
        typer.echo(f"not loaded: {indented(str(problem))}", err=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(trial_store(settings.redis))
        except CoprocessError as error:
            if settings.redis is not None:
                raise
            typer.echo(f"no store: {error}", err=True)
        dispatcher = stack.enter_context(dispatcher_of(loaded.table, settings))
        for problem in stack.enter_context(dispatcher.opening(loaded, settings.resource_timeout_s)):
            typer.echo(f"not loaded: {indented(str(problem))}", err=True)
        reply = b""
        with suppress(RpcError):
            reply = dispatcher.dispatch(payload)
        run, *events = dispatcher.runs
        for event in events:
            name, text = event.triggered or ("", "")
            typer.echo(f"event {name}: {text}", err=True)
            _show_failure(event.error)
        _show_failure(run.error)
        if run.error is not None and not run.is_answered:
            raise run.error
        return reply if run.guarded is None or run.is_answered else run.guarded.SerializeToString()


def _show_failure(error: BaseException | None) -> None:
    cause = error.__cause__ if error is not None else None
    if cause is not None and not isinstance(cause, CoprocessError):
        typer.echo(block(format_error(cause, is_not_ours)), err=True)


def _over_grpc(address: str, payload: bytes, tls: ClientTls | None) -> bytes:
    try:
        target = normal_address(address)
    except ValueError as error:
        raise ConfigError(f"--address {error}") from None
    with GrpcDispatcher(target, tls=tls) as dispatcher:
        try:
            return dispatcher.dispatch(payload)
        except RpcError as error:
            raise CoprocessError(f"{target}: {error}") from None
