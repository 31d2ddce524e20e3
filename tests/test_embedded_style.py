"""Plugins of Tyk's embedded Python driver, unchanged: programs/embedded_*."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory

from coprocess import store
from coprocess.api.moments import HookType
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.wire import POOL, Object, SessionState
from coprocess.loading.hooks import HookTable
from coprocess.store import close, configure
from tests.conftest import Load
from tests.loading import (
    global_of,
    good,
    hook_names,
    problem_of,
    program,
    reply_of,
    run,
    send_event,
    set_headers,
    the_hook,
    write,
)
from tests.objects import make_object, make_request, make_response
from tests.server import PATIENCE_S, serving

REQUEST_TYPES = (HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post)


def test_every_import_of_the_embedded_driver(load: Load) -> None:
    reply = reply_of(good(load(program("embedded_imports"))), "SeesTypes", HookType.CustomKeyCheck)

    session = reply.session
    assert session.access_rights["api"].allowed_urls[0].methods == ["GET"]
    assert (session.basic_auth_data.password, session.jwt_data.secret) == ("p", "s")
    assert session.monitor.trigger_limits == [80.0]


@pytest.mark.parametrize(
    "code",
    ["import tyk.nothing", "from tyk.nothing import x", "from tyk import nothing", "import coprocess_x_pb2"],
)
def test_what_the_driver_does_not_have_is_an_import_error(load: Load, tmp_path: Path, code: str) -> None:
    loaded = load(write(tmp_path, {"handlers.py": code}))

    assert f"{tmp_path}/handlers.py:1: " in problem_of(loaded)
    assert "Error: " in problem_of(loaded)


@pytest.fixture
def arities(load: Load) -> HookTable:
    return good(load(program("embedded_arities")))


@pytest.mark.parametrize("hook_type", REQUEST_TYPES)
@pytest.mark.parametrize("arity", ["3", "4"])
def test_hook_takes_3_and_4_arguments_for_every_request_type(
    arities: HookTable, hook_type: HookType, arity: str
) -> None:
    reply = reply_of(arities, f"Hook{arity}", hook_type, api_id="an-api")

    assert set_headers(reply) == {"X-Saw": f"{arity} an-api"}


@pytest.mark.parametrize("hook_type", REQUEST_TYPES)
@pytest.mark.parametrize("arity", ["3", "4"])
def test_typed_decorators_take_3_and_4_arguments(arities: HookTable, hook_type: HookType, arity: str) -> None:
    reply = reply_of(arities, f"Typed{arity}", hook_type)

    assert set_headers(reply) == {"X-Saw": f"{arity} {hook_type.name}"}


def test_hook_with_5_arguments_for_responses(arities: HookTable) -> None:
    reply = reply_of(arities, "Hook5", HookType.Response, api_id="an-api")

    assert (reply.response.status_code, reply.response.raw_body) == (201, b"new")
    assert reply.response.headers["X-Saw"] == "5 an-api"
    assert [header.values[:] for header in reply.response.multivalue_headers if header.key == "X-Saw"] == [
        ["5 an-api"]
    ]


@pytest.mark.parametrize("name", ["Hook3", "Hook4", "Hook5"])
def test_hook_is_there_for_every_type_whatever_it_takes(arities: HookTable, name: str) -> None:
    """The embedded driver asks for the number of arguments, and never for the moment."""
    assert {hook.type for hook in arities if hook.name == name} == {*REQUEST_TYPES, HookType.Response}


@pytest.mark.parametrize("hook_type", REQUEST_TYPES)
def test_hook_with_5_arguments_before_there_is_a_response(
    load: Load, tmp_path: Path, hook_type: HookType
) -> None:
    """As the gateway's own test plugin has it at pre."""
    code = """
from tyk.decorators import *

@Hook
def Five(request, response, session, metadata, spec):
    request.add_header("X-Saw", f"{response.status_code} {spec['APIID']}")
    response.status_code = 299
    return response

@Hook
def FiveOfAll(request, response, session, metadata, spec):
    session.alias = "someone"
    metadata["token"] = "t"
    return request, response, session, metadata
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    reply = reply_of(table, "Five", hook_type, api_id="an-api", full_reply=False)
    assert set_headers(reply) == {"X-Saw": "0 an-api"}
    check = reply_of(table, "FiveOfAll", hook_type)
    assert (check.session.alias, dict(check.metadata)) == ("someone", {"token": "t"})


@pytest.mark.parametrize(("name", "returned"), [("Hook3", "3 an-api"), ("Hook4", "4 an-api")])
def test_hook_with_3_and_4_arguments_for_responses(arities: HookTable, name: str, returned: str) -> None:
    response = make_response(207, b"kept")

    reply = reply_of(arities, name, HookType.Response, api_id="an-api", response=response)

    assert set_headers(reply) == {"X-Saw": returned}
    assert (reply.response.status_code, reply.response.raw_body) == (207, b"kept")


def test_two_hooks_of_one_name_for_requests_and_for_responses(load: Load, tmp_path: Path) -> None:
    """Each where its arguments fit: neither is a second one of the other's type."""
    code = """
from tyk.decorators import *

@Hook
def Both(request, session, spec):
    request.add_header("X-Ran", "request")

@Hook
def Both(request, response, session, metadata, spec):
    response.headers["X-Ran"] = "response"
    return response
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    assert set_headers(reply_of(table, "Both", HookType.Pre)) == {"X-Ran": "request"}
    assert reply_of(table, "Both", HookType.Response).response.headers["X-Ran"] == "response"


def test_a_parameter_with_a_default_keeps_it(arities: HookTable) -> None:
    assert set_headers(reply_of(arities, "Defaults")) == {"X-Saw": "3"}


def test_hooks_are_of_the_embedded_style(arities: HookTable) -> None:
    assert {hook.style for hook in arities} == {"embedded"}


@pytest.fixture
def returns(load: Load) -> HookTable:
    return good(load(program("embedded_returns")))


@pytest.mark.parametrize(
    "name",
    ["Two", "Three", "AList", "Nothing", "OnlyRequest", "OnlySession", "OnlyMetadata", "All", "WithNone"],
)
def test_edits_are_kept_whatever_of_its_arguments_a_handler_returns(returns: HookTable, name: str) -> None:
    reply = reply_of(returns, name, HookType.CustomKeyCheck)

    assert set_headers(reply) == {"X-Edited": "1"}
    assert reply.session.alias == "someone"
    assert dict(reply.metadata) == {"token": "t"}


def test_spec_that_is_returned_is_not_taken_for_metadata(returns: HookTable) -> None:
    reply = reply_of(returns, "SpecOfThree", HookType.CustomKeyCheck, metadata={"kept": "1"})

    assert dict(reply.metadata) == {"kept": "1"}
    assert set_headers(reply) == {"X-Edited": "1"}


def test_response_hook_may_return_all_its_arguments(returns: HookTable) -> None:
    reply = reply_of(returns, "Unsure", HookType.Response)

    assert reply.response.headers["X-Edited"] == "1"
    assert reply.response.status_code == 200


def test_session_that_is_returned_untouched_is_a_session(returns: HookTable) -> None:
    """The embedded driver sends back every session it is given: the caller is admitted, without limits."""
    reply = reply_of(returns, "UntouchedSession", HookType.CustomKeyCheck, full_reply=False)

    assert reply.HasField("session")
    assert dict(reply.metadata) == {"token": "t"}


@pytest.mark.parametrize("hook_type", [HookType.Pre, HookType.Post])
def test_session_stays_absent_where_nobody_sets_it(arities: HookTable, hook_type: HookType) -> None:
    assert not reply_of(arities, "Hook3", hook_type).HasField("session")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ANumber", "returned int"),
        ("Text", "returned str"),
        ("WrongMessage", "returned a coprocess.ReturnOverrides message"),
        ("ACoroutine", "returned a coroutine, which nobody awaits"),
        ("NumbersAsMetadata", "returned metadata whose 'token' is no text"),
    ],
)
def test_what_cannot_be_a_reply_fails(returns: HookTable, name: str, what: str) -> None:
    with pytest.raises(HandlerFailed) as caught:
        reply_of(returns, name)

    assert f'Pre hook "{name}" {what}: expected' in str(caught.value)


@pytest.fixture
def replacements(load: Load) -> HookTable:
    return good(load(program("embedded_replacements")))


@pytest.mark.parametrize("name", ["NewMessage", "NewRequest"])
def test_new_request_replaces_what_it_says_and_leaves_the_rest(replacements: HookTable, name: str) -> None:
    request = make_request("/a?b=1", method="POST", body=b"kept")

    reply = reply_of(replacements, name, request=request).request

    assert dict(reply.set_headers) == {"X-New": "1"}
    assert (reply.url, reply.method, reply.raw_body) == ("/a?b=1", "POST", b"kept")
    assert reply.HasField("return_overrides")


def test_new_request_with_url_method_and_body(replacements: HookTable) -> None:
    reply = reply_of(replacements, "NewBody", request=make_request(body=b"old")).request

    assert (reply.url, reply.method, reply.raw_body) == ("/other", "PUT", b"new")


@pytest.mark.parametrize("name", ["NewSession", "NewSessionFirst"])
def test_new_session_and_metadata(replacements: HookTable, name: str) -> None:
    reply = reply_of(replacements, name, HookType.CustomKeyCheck, metadata={"old": "1"})

    assert reply.session.alias == "new"
    assert dict(reply.metadata) == {"token": "t"}


def test_new_session_replaces_all_of_the_old(replacements: HookTable) -> None:
    old = SessionState(org_id="o", tags=["t"])

    reply = reply_of(replacements, "NewSession", HookType.CustomKeyCheck, session=old)

    assert reply.session == SessionState(rate=5, alias="new")


def test_empty_new_session_is_a_session(replacements: HookTable) -> None:
    reply = reply_of(replacements, "EmptySession", HookType.CustomKeyCheck, full_reply=False)

    assert reply.HasField("session")


def test_new_response(replacements: HookTable) -> None:
    reply = reply_of(replacements, "NewResponse", HookType.Response, response=make_response(500, b"old"))

    assert (reply.response.status_code, reply.response.raw_body) == (202, b"new")
    assert dict(reply.response.headers) == {"X-New": "1"}


@pytest.fixture
def own_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed module with message classes of the same protocol, in a descriptor pool of its own."""
    pool = descriptor_pool.DescriptorPool()
    for name in (
        "coprocess_return_overrides.proto",
        "coprocess_mini_request_object.proto",
        "coprocess_response_object.proto",
        "coprocess_session_state.proto",
    ):
        pool.AddSerializedFile(POOL.FindFileByName(name).serialized_pb)
    module = ModuleType("own_messages")
    for name in ("MiniRequestObject", "ResponseObject", "SessionState"):
        message_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"coprocess.{name}"))
        setattr(module, name, message_class)
    monkeypatch.setitem(sys.modules, "own_messages", module)


@pytest.mark.usefixtures("own_messages")
def test_messages_of_the_plugins_own_classes(load: Load) -> None:
    table = good(load(program("embedded_own_messages")))

    request = reply_of(table, "OwnRequest", request=make_request("/x", body=b"kept")).request
    assert dict(request.set_headers) == {"X-Own": "1"}
    assert (request.url, request.raw_body) == ("/x", b"kept")
    check = reply_of(table, "OwnSession", HookType.CustomKeyCheck)
    assert check.session.alias == "own"
    assert dict(check.metadata) == {"token": "t"}
    response = reply_of(table, "OwnResponse", HookType.Response).response
    assert (response.status_code, response.raw_body) == (203, b"own")


def test_generated_modules_that_lie_beside_the_handlers(tmp_path: Path) -> None:
    """Compiled into the folder, as for a gRPC server: nobody needs them, and they do no harm."""
    protos = Path(__file__).parents[1] / "proto"
    names = [path.name for path in protos.glob("*.proto")]
    assert names
    folder = write(tmp_path / "plugin", {"handlers.py": OWN_MODULES})
    compile_protos = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={folder}"]
    subprocess.run([*compile_protos, *names], check=True)

    # In a process of its own: the generated modules would stay in protobuf's default pool.
    script = (
        "import sys; from pathlib import Path; from coprocess.loading import loader;"
        "from coprocess.gateways.tyk.home import HOME;"
        "loaded = loader.load([Path(sys.argv[1])], HOME);"
        "print([str(problem) for problem in loaded.problems], [hook.name for hook in loaded.table])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )

    assert done.stdout == "[] ['Plain']\n", done.stderr


OWN_MODULES = """
from coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.decorators import *

@Pre
def Plain(request, session, spec):
    assert type(request.object) is MiniRequestObject
    return request, session
"""


@pytest.fixture
def requests(load: Load) -> HookTable:
    return good(load(program("embedded_request")))


def test_methods_of_the_request(requests: HookTable) -> None:
    request = reply_of(requests, "Methods", request=make_request(headers={"X-Given": "g"})).request

    assert dict(request.set_headers) == {"custom_header": "v"}
    assert request.delete_headers[:] == ["X-Given"]
    assert dict(request.add_params) == {"added": "1"}
    assert request.delete_params[:] == ["gone"]


def test_attributes_of_the_request_are_the_messages_fields(requests: HookTable) -> None:
    request = reply_of(requests, "Attributes", request=make_request(headers={"X-Given": "g"})).request

    assert (request.url, request.raw_body) == ("/other", b"raw")
    assert request.return_overrides.response_code == 418
    assert dict(request.return_overrides.headers) == {"X-Over": "1"}


def test_metadata_and_spec_act_as_dicts(requests: HookTable) -> None:
    reply = reply_of(requests, "Dicts", HookType.Pre)

    assert dict(reply.metadata) == {"b": "2"}


def test_printing_a_request_shows_no_credentials(
    requests: HookTable, capsys: pytest.CaptureFixture[str]
) -> None:
    reply_of(requests, "Prints", request=make_request("/shown", headers={"Authorization": "hidden"}))

    printed = capsys.readouterr().out
    assert "/shown" in printed
    assert "hidden" not in printed


def test_two_functions_of_one_name_under_different_decorators(load: Load, tmp_path: Path) -> None:
    code = """
from tyk.decorators import *

@Pre
def Twice(request, session, spec):
    request.add_header("X-Ran", "first")
    return request, session

@Post
def Twice(request, session, spec):
    request.add_header("X-Ran", "second")
    return request, session
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    assert set_headers(reply_of(table, "Twice", HookType.Pre)) == {"X-Ran": "first"}
    assert set_headers(reply_of(table, "Twice", HookType.Post)) == {"X-Ran": "second"}


def test_hook_of_any_type_gives_way_to_one_that_names_its_type(load: Load, tmp_path: Path) -> None:
    code = """
from tyk.decorators import *

@Hook
def Both(request, session, spec):
    request.add_header("X-Ran", "any")

@Post
def Both(request, session, spec):
    request.add_header("X-Ran", "post")
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    assert set_headers(reply_of(table, "Both", HookType.Pre)) == {"X-Ran": "any"}
    assert set_headers(reply_of(table, "Both", HookType.Post)) == {"X-Ran": "post"}


def test_async_handlers(load: Load) -> None:
    table = good(load(program("embedded_async")))

    assert all(hook.is_async for hook in table)
    assert set_headers(reply_of(table, "AsyncPre")) == {"X-Async": "1"}
    assert dict(reply_of(table, "AsyncHook", HookType.CustomKeyCheck).metadata) == {"token": "t"}
    send_event(table, "AsyncEvent", event_type="KeyExpired", api_id="an-api")
    assert global_of(the_hook(table, "AsyncEvent"), "seen") == [("KeyExpired", "an-api")]


@pytest.fixture
def gateway(load: Load) -> HookTable:
    return good(load(program("embedded_gateway")))


@pytest.fixture
def data(tmp_path: Path) -> Iterator[None]:
    configure(None, data_dir=tmp_path / "data", timeout_s=PATIENCE_S)
    yield
    close()


@pytest.mark.usefixtures("data")
def test_store_data_and_get_data(gateway: HookTable) -> None:
    assert set_headers(reply_of(gateway, "Stores")) == {"X-Data": "value"}
    assert store.get("for_good") == b"value"


def test_log_and_log_error(gateway: HookTable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="tyk"):
        reply_of(gateway, "Logs")

    records = [record for record in caplog.records if record.name == "tyk"]
    assert [(record.levelname, record.getMessage()) for record in records] == [
        ("DEBUG", "to debug"),
        ("INFO", "to info"),
        ("WARNING", "to warning"),
        ("ERROR", "to error"),
        ("INFO", "to somewhere"),
        ("ERROR", "outside of an exception"),
        ("ERROR", "inside of one"),
    ]
    assert not records[-2].exc_info
    assert records[-1].exc_info is not None
    assert records[-1].exc_info[0] is KeyError


def test_trigger_event_reaches_a_local_event_function(gateway: HookTable) -> None:
    with serving(gateway) as server:
        server.client.dispatch(make_object(hook_name="Triggers", api_id="an-api"))

        handler = the_hook(gateway, "on_trigger")
        assert global_of(handler, "arrived").wait(PATIENCE_S)
    assert global_of(handler, "seen") == [("hello", "on_trigger", "an-api")]


def test_event_handler_gets_the_event_as_a_dict_and_by_attribute(load: Load, tmp_path: Path) -> None:
    code = """
from tyk.decorators import Event

seen = {}

@Event
def on_event(event, spec):
    seen.update(event["EventMetaData"], type=event.EventType, time=event["TimeStamp"], spec=dict(spec))
    return "nobody reads this"
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    send_event(table, "on_event", event_type="AuthFailure", api_id="an-api")

    seen: dict[str, Any] = global_of(the_hook(table, "on_event"), "seen")
    assert seen["type"] == "AuthFailure"
    assert seen["Path"] == "/protected/a"
    assert seen["time"].startswith("2026-11-21")
    assert seen["spec"] == {"APIID": "an-api", "OrgID": "default"}


WRONG = {
    "too few arguments": ("@Pre\ndef h(request, session): pass", "takes 2 arguments"),
    "too many arguments": ("@Hook\ndef h(a, b, c, d, e, f): pass", "takes 6 arguments"),
    "three under Event": ("@Event\ndef h(a, b, c): pass", "takes 3 arguments"),
    "any arguments": ("@Hook\ndef h(*args): pass", "takes *args"),
    "any keywords": ("@Pre\ndef h(a, b, c, **more): pass", "takes **more"),
    "by keyword only": ("@Pre\ndef h(a, b, *, c): pass", "takes c by keyword only"),
    "a generator": ("@Pre\ndef h(a, b, c): yield", "yields"),
    "a class": ("@Pre\nclass h: pass", "is on <class"),
    "no callable": ("@Pre\n@property\ndef h(): pass", "is on <property"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_handler_is_an_error_that_names_file_line_and_expectation(
    load: Load, tmp_path: Path, case: str
) -> None:
    code, what = WRONG[case]

    text = problem_of(load(write(tmp_path, {"handlers.py": f"from tyk.decorators import *\n\n{code}\n"})))

    assert text.startswith(f"{tmp_path}/handlers.py:3: ")
    assert what in text
    assert ". Expected" in text


def test_wrong_handler_does_not_stop_the_others_of_its_module(load: Load, tmp_path: Path) -> None:
    code = """
from tyk.decorators import *

@Pre
def Wrong(request): pass

@Pre
def Right(request, session, spec): pass
"""
    loaded = load(write(tmp_path, {"handlers.py": code}))

    assert hook_names(loaded.table) == ["Pre Right"]
    assert "Wrong() takes 1 arguments" in problem_of(loaded)


def test_whole_table_runs_in_the_gateways_form(returns: HookTable) -> None:
    """Without full_reply, as served: only what the gateway reads comes back."""
    message = make_object(HookType.CustomKeyCheck, "Two")

    reply = run(returns, message, full_reply=False)

    assert reply == Object(
        request=reply.request, session=SessionState(alias="someone"), metadata={"token": "t"}
    )
    assert set_headers(reply) == {"X-Edited": "1"}


def test_what_holds_others_may_be_given_as_a_dict_or_a_list(load: Load, tmp_path: Path) -> None:
    """Once, the driver's own sample, which rejects by a dict, failed where it meant to reject."""
    code = """
        from tyk.decorators import *
        import coprocess_return_overrides_pb2 as overrides

        @CustomKeyCheck
        def ByDict(request, session, metadata, spec):
            request.return_overrides.response_error = "gone"
            request.return_overrides = {"response_code": 401, "headers": {"X-Why": "no key"}}
            request.set_headers = {"X-Seen": "1"}
            request.delete_headers = ["X-Given"]
            return request, session, metadata

        @Pre
        def ByMessage(request, session, spec):
            request.return_overrides = overrides.ReturnOverrides(response_code=402)
            return request, session

        @Pre
        def ByText(request, session, spec):
            request.delete_headers = "X-Given"
    """
    table = good(load(write(tmp_path, {"handlers.py": textwrap.dedent(code)})))
    request = reply_of(table, "ByDict", HookType.CustomKeyCheck).request
    assert (request.return_overrides.response_code, request.return_overrides.response_error) == (401, "")
    assert dict(request.return_overrides.headers) == {"X-Why": "no key"}
    assert (dict(request.set_headers), request.delete_headers[:]) == ({"X-Seen": "1"}, ["X-Given"])
    assert reply_of(table, "ByMessage", HookType.Pre).request.return_overrides.response_code == 402
    with pytest.raises(HandlerFailed) as raised:
        reply_of(table, "ByText", HookType.Pre)
    assert str(raised.value.__cause__).startswith("delete_headers is a dict, a list or a message, not str")
