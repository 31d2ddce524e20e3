"""The samples that ship with the project, in handlers/ and event_handlers/, as files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from coprocess import store
from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import Object, SessionState
from coprocess.loading.hooks import HookTable
from coprocess.store import close, configure
from tests.conftest import Load
from tests.loading import good, hook_names, reply_of, send_event, set_headers
from tests.objects import make_request

ROOT = Path(__file__).parents[1]
VALID_TOKEN = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"

# As the page that users know the samples from has them.
PAGE = {
    "handlers/my_middleware.py": """
from tyk.decorators import *
@Pre
def MyPreMiddleware(request, session, spec):
    print("my_middleware: MyPreMiddleware")
    return request, session
@Post
def MyPreMiddleware(request, session, spec):
    print("my_middleware: MyPreMiddleware")
    return request, session
""",
    "handlers/my_auth_middleware.py": """
from tyk.decorators import *
from gateway import TykGateway as tyk
from tyk.session import AccessSpec, AccessDefinition, BasicAuthData, JWTData, Monitor
@CustomKeyCheck
def MyAuthCheck(request, session, metadata, spec):
    print("my_auth_middleware: CustomKeyCheck hook")
    print("my_auth_middleware - Request:", request)
    print("my_auth_middleware - Session:", session)
    print("my_auth_middleware - Spec:", spec)
    valid_token = 'aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d'
    request_token = request.get_header('Authorization')
    print("my_auth_middleware - Request Token:", request_token)
    if request_token == valid_token:
        session.rate = 1000.0
        session.per = 1.0
        metadata['token'] = 'mytoken'
    else:
        # Invalid token!
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = 'Not authorized (Python middleware)'
    return request, session, metadata
""",
    "handlers/store_data.py": """
from tyk.decorators import *
from gateway import TykGateway as tyk
@Pre
def SetKeyOnRequest(request, session, spec):
    tyk.store_data( "my_key", "expiring_soon", 15 )
    val = tyk.get_data("cool_key")
    return request, session
""",
    "handlers/append_header.py": """
from tyk.decorators import *
@Pre
def AppendHeader(request, session, spec):
    request.add_header("custom_header", "custom_value")
    return request, session
""",
    "event_handlers/my_handler.py": """
from tyk.decorators import Event
@Event
def my_handler(event, spec):
    print("-- my_handler:")
    print("  Event:", event)
    print("  Spec:", spec)
""",
}


@pytest.mark.parametrize("path", PAGE)
def test_sample_is_the_pages_own_code(path: str) -> None:
    own, page = (ast.dump(ast.parse(text)) for text in ((ROOT / path).read_text(), PAGE[path]))

    assert own == page


@pytest.fixture
def samples(load: Load, tmp_path: Path) -> Iterator[HookTable]:
    configure(None, data_dir=tmp_path / "data", timeout_s=50)
    yield good(load(ROOT / "handlers", ROOT / "event_handlers"))
    close()


def test_all_samples_are_loaded(samples: HookTable) -> None:
    assert hook_names(samples) == [
        "CustomKeyCheck MyAuthCheck",
        "CustomKeyCheck auth_check",
        "Event my_handler",
        "Event on_auth_failure",
        "Post MyPreMiddleware",
        "Post announce",
        "Pre AppendHeader",
        "Pre MyPreMiddleware",
        "Pre SetKeyOnRequest",
        "Pre announce",
        "Pre append_header",
        "Pre set_key_on_request",
    ]


@pytest.mark.parametrize("name", ["AppendHeader", "append_header"])
def test_header_is_appended(samples: HookTable, name: str) -> None:
    assert set_headers(reply_of(samples, name)) == {"custom_header": "custom_value"}


@pytest.mark.parametrize("name", ["SetKeyOnRequest", "set_key_on_request"])
def test_key_is_set_on_request(samples: HookTable, name: str) -> None:
    reply_of(samples, name)

    assert store.get("my_key") == b"expiring_soon"


@pytest.mark.parametrize("hook_type", [HookType.Pre, HookType.Post])
@pytest.mark.parametrize(
    ("name", "printed"),
    [("MyPreMiddleware", "my_middleware: MyPreMiddleware"), ("announce", "native_twins: announce")],
)
def test_middleware_that_prints(
    samples: HookTable, capsys: pytest.CaptureFixture[str], name: str, printed: str, hook_type: HookType
) -> None:
    reply_of(samples, name, hook_type)

    assert capsys.readouterr().out == f"{printed}\n"


def check(samples: HookTable, name: str, token: str | None) -> Object:
    headers = {} if token is None else {"Authorization": token}
    return reply_of(
        samples, name, HookType.CustomKeyCheck, request=make_request(headers=headers), full_reply=False
    )


@pytest.mark.parametrize("name", ["MyAuthCheck", "auth_check"])
def test_valid_token_is_admitted(samples: HookTable, name: str) -> None:
    reply = check(samples, name, VALID_TOKEN)

    assert reply.session == SessionState(rate=1000, per=1)
    assert dict(reply.metadata) == {"token": "mytoken"}
    assert reply.request.return_overrides.response_code == -1


@pytest.mark.parametrize("name", ["MyAuthCheck", "auth_check"])
@pytest.mark.parametrize("token", [None, "", "invalidtoken", "Bearer ü"])
def test_invalid_token_is_refused(samples: HookTable, name: str, token: str | None) -> None:
    reply = check(samples, name, token)

    overrides = reply.request.return_overrides
    assert (overrides.response_code, overrides.response_error) == (401, "Not authorized (Python middleware)")
    assert "token" not in reply.metadata


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("my_handler", "-- my_handler:\n  Event: {"),
        ("on_auth_failure", "AuthFailure at API an-api: /protected/a\n"),
    ],
)
def test_event_handler(
    samples: HookTable, capsys: pytest.CaptureFixture[str], name: str, printed: str
) -> None:
    send_event(samples, name, event_type="AuthFailure", api_id="an-api")

    assert capsys.readouterr().out.startswith(printed)
