"""Every recorded Object through a running server; what comes back is judged by what a real gateway did.

A recording is played again with our replies in place of the recorded ones: then the simulated gateway,
which is held to the recordings, must come to the recorded end, with the same upstream request, answer
and events. So the recording says what a script has to reach, and our reply may be another one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coprocess import CustomKeyCheck, Post, PostKeyAuth, Pre, Reject, Response, respond
from coprocess.api.http import canonical_name
from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator import replay
from coprocess.gateways.tyk.wire import Object
from coprocess.loading.hooks import HookTable
from tests.objects import APIS, RECORDINGS, RecordedDispatch, recorded_dispatches, table_of
from tests.server import ENGINES, PATIENCE_S, Client, serving, status_of

Json = dict[str, Any]
Script = Callable[["Arguments"], Any]

NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))
DISPATCHES = recorded_dispatches()

#: What the reply guard mends, so that the gateway's client fares better than in the recording: the
#: difference that this makes.
MENDED = {
    "body_only_is_ignored": "upstream request: body: expected b'orig', got b'changed'",
    "reply_without_request": "dispatches: expected ['First'], got ['First', 'Second']",
    "resp_delete_multivalue_change_map": "response.headers.X-Up: expected 'yes', got nothing",
    "url_empty": "upstream request: expected None, got UpstreamRequest(method='GET', url='/q'",
}

#: What native handlers cannot say, as there is no use for it.
NOT_NATIVE = {
    "edit_headers_map_is_ignored": "headers that the gateway does not read",
    "override_0_body": "an answer without a status",
    "override_minus_one_with_headers": "an answer without a status",
    "override_error_and_body": "two bodies at once",
    "method_empty": "no method",
    "url_empty": "no URL",
    "url_relative": "no URL",
    "auth_token_in_session_metadata": "a session without a token in metadata",
    "body_only_is_ignored": "one form of the body",
    "reply_without_request": "no request",
    "resp_delete_multivalue_change_map": "one form of the headers",
    "resp_delete_multivalue_only": "one form of the headers",
    "resp_override_is_ignored": "overrides in a Response hook",
    "resp_request_edit_is_dropped": "edits that are dropped, on purpose",
    "resp_status_zero": "no status",
    "set_host_header": "Host",
}


class Arguments:
    """What a handler was passed."""

    def __init__(self, request: Any, session: Any, metadata: Any, response: Any = None) -> None:
        self.request = request
        self.session = session
        self.metadata = metadata
        self.response = response


class Recorder:
    """A server whose handlers do what `script` says."""

    def __init__(self) -> None:
        self.script: Script = lambda arguments: None
        self.client: Client

    def table(self) -> HookTable:
        objects = [Object.FromString(dispatch.sent) for dispatch in DISPATCHES]
        hooks = {(int(sent.hook_type), sent.hook_name) for sent in objects}
        decorators: dict[int, Any] = {
            HookType.Pre: Pre,
            HookType.Post: Post,
            HookType.PostKeyAuth: PostKeyAuth,
            HookType.CustomKeyCheck: CustomKeyCheck,
        }

        def on_request(request: Any, session: Any, metadata: Any) -> Any:
            return self.script(Arguments(request, session, metadata))

        def on_response(request: Any, response: Any, session: Any, metadata: Any) -> Any:
            return self.script(Arguments(request, session, metadata, response))

        def declare() -> None:
            for hook_type, name in hooks:
                if hook_type == HookType.Response:
                    Response(name=name)(on_response)
                else:
                    decorators[hook_type](name=name)(on_request)

        return table_of(declare)

    def send(self, sent: bytes, script: Script) -> bytes:
        self.script = script
        return self.client.raw(sent, timeout=PATIENCE_S)


def running(engine: Any, *, full_reply: bool) -> Iterator[Recorder]:
    recorder = Recorder()
    with serving(recorder.table(), engine=engine, full_reply=full_reply) as server:
        recorder.client = server.client
        yield recorder


@pytest.fixture(scope="module", params=ENGINES)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    yield from running(request.param, full_reply=False)


@pytest.fixture(scope="module", params=ENGINES)
def full_recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    yield from running(request.param, full_reply=True)


def load(name: str) -> Json:
    content: Json = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def raw_script(dispatch: RecordedDispatch) -> Script:
    """Make the messages what the recorded reply has."""
    if dispatch.reply is None:
        return fail
    reply = Object.FromString(dispatch.reply)

    def script(arguments: Arguments) -> None:
        arguments.request.object.CopyFrom(reply.request)
        if reply.HasField("session"):
            arguments.session.object.CopyFrom(reply.session)
        arguments.metadata.clear()
        arguments.metadata.update(reply.metadata)
        if arguments.response is not None:
            arguments.response.object.CopyFrom(reply.response)

    return script


def fail(arguments: Arguments) -> None:
    raise ValueError("as recorded")


def native_script(dispatch: RecordedDispatch) -> Script:
    """Do, in the words of the native interface, what makes the recorded reply of the recorded Object."""
    if dispatch.reply is None:
        return fail
    sent, reply = Object.FromString(dispatch.sent), Object.FromString(dispatch.reply)

    def script(arguments: Arguments) -> Any:
        if arguments.response is not None:
            edit_response(arguments.response, sent, reply)
            return None
        edit_request(arguments.request, sent, reply)
        if reply.HasField("session") and int(sent.hook_type) == HookType.CustomKeyCheck:
            for field, value in reply.session.ListFields():
                setattr(arguments.session, field.name, value)
            if "token" in reply.metadata:
                arguments.session.allow(reply.metadata["token"])
        return overridden(reply)

    return script


def edit_request(request: Any, sent: Object, reply: Object) -> None:
    edits = reply.request
    for name in edits.delete_headers:
        if name in request.headers:
            del request.headers[name]
    for name, value in edits.set_headers.items():
        request.headers[name] = value
    for name in edits.delete_params:
        if name in request.query:
            del request.query[name]
    for name, value in edits.add_params.items():
        request.query[name] = value
    if edits.url != sent.request.url:
        request.path = edits.url.partition("?")[0]
    if edits.method != sent.request.method:
        request.method = edits.method
    if edits.raw_body != sent.request.raw_body:
        request.body = edits.raw_body


def overridden(reply: Object) -> Any:
    overrides = reply.request.return_overrides
    if overrides.response_code <= 0:
        return None
    text = overrides.response_error or overrides.response_body
    if overrides.response_code >= 400 and not overrides.override_error:
        # An error of the gateway's own making; its default text is one that can be said.
        raise Reject(overrides.response_code, text or "Key not authorised", headers=overrides.headers)
    return respond(overrides.response_code, text, headers=overrides.headers)


def edit_response(response: Any, sent: Object, reply: Object) -> None:
    edits = reply.response
    if edits.status_code != sent.response.status_code:
        response.status = edits.status_code
    if edits.raw_body != sent.response.raw_body:
        response.body = edits.raw_body
    before = {header.key: list(header.values) for header in sent.response.multivalue_headers}
    after = {canonical_name(header.key): list(header.values) for header in edits.multivalue_headers}
    for name, value in edits.headers.items():
        if sent.response.headers.get(name) != value:
            after[name] = [value, *after.get(name, [])[1:]]
    for name, values in after.items():
        if before.get(name) != values:
            response.headers[name] = values[0]
            for value in values[1:]:
                response.headers.add(name, value)
    for name in before.keys() - after.keys():
        del response.headers[name]


def played_again(
    name: str, recorder: Recorder, make: Callable[[RecordedDispatch], Script], folder: Path
) -> list[str]:
    """The differences between the recording and its play with our replies."""
    recording = load(name)
    for index, call in enumerate(recording["dispatches"]):
        (dispatch,) = [d for d in DISPATCHES if (d.recording, d.index) == (name, index)]
        try:
            call["reply"] = base64.b64encode(recorder.send(dispatch.sent, make(dispatch))).decode()
        except grpc.RpcError as error:
            code, text = status_of(error)
            assert code is grpc.StatusCode.INTERNAL
            assert f'"{call["hook_name"]}" ' in text
            assert dispatch.reply is None or name == "url_relative"
            call["reply"] = None
            call["status"] = recorded_failure()
    path = folder / f"{name}.json"
    path.write_text(json.dumps(recording), encoding="utf-8")
    follows = []
    while recording["follows"] is not None:
        follows.append(RECORDINGS / f"{recording['follows']}.json")
        recording = load(recording["follows"])
    return list(replay([path, *follows], APIS).problems)


def recorded_failure() -> str:
    """The status that recordings of failed calls have."""
    return str(load("rpc_error_pre")["dispatches"][0]["status"])


def test_every_recording_is_here() -> None:
    assert len(NAMES) >= 78
    assert len(DISPATCHES) >= 150
    assert set(MENDED) <= set(NAMES)
    assert set(NOT_NATIVE) <= set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*MENDED, "resp_status_zero")])
def test_raw_edits_come_to_the_recorded_end(name: str, recorder: Recorder, tmp_path: Path) -> None:
    assert played_again(name, recorder, raw_script, tmp_path) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_NATIVE])
def test_native_handlers_come_to_the_recorded_end(name: str, recorder: Recorder, tmp_path: Path) -> None:
    assert played_again(name, recorder, native_script, tmp_path) == []


@pytest.mark.parametrize("name", MENDED)
def test_what_the_guard_mends_ends_better_than_recorded(
    name: str, recorder: Recorder, tmp_path: Path
) -> None:
    problems = "\n".join(played_again(name, recorder, raw_script, tmp_path))
    assert MENDED[name] in problems


def test_resp_status_zero_is_mended(recorder: Recorder) -> None:
    """The recording's next hook was sent the status 0, which now cannot be."""
    (dispatch,) = [d for d in DISPATCHES if str(d) == "resp_status_zero-3"]
    assert dispatch.reply is not None
    assert Object.FromString(dispatch.reply).response.status_code == 0
    reply = Object.FromString(recorder.send(dispatch.sent, raw_script(dispatch)))
    assert reply.response.status_code == Object.FromString(dispatch.sent).response.status_code == 200


@pytest.mark.parametrize("dispatch", DISPATCHES, ids=str)
def test_a_raw_handler_that_passes_on_returns_what_it_got(
    dispatch: RecordedDispatch, full_recorder: Recorder
) -> None:
    def script(arguments: Arguments) -> None:
        # To reach for the messages is what makes the guard look closely.
        assert arguments.request.object is not None
        assert arguments.response is None or arguments.response.object is not None

    if str(dispatch) == "resp_status_zero-4":
        # Another hook left no status, and there is none to put in its place.
        with pytest.raises(grpc.RpcError, match="set status_code to 0"):
            full_recorder.send(dispatch.sent, script)
        return
    reply = full_recorder.send(dispatch.sent, script)
    assert Object.FromString(reply) == Object.FromString(dispatch.sent)
    assert len(reply) == len(dispatch.sent)
