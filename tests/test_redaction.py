"""No secret gets into what the service writes: by unit, and end to end with secrets in every place."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import grpc
import pytest
import structlog

from coprocess.hooks import HookType
from coprocess.server import logs, redaction
from coprocess.server.redaction import REDACTED, add_url_secrets, redact_event, redact_text
from coprocess.tyk.wire import BasicAuthData, JWTData, SessionState
from tests.objects import event_json, make_object, make_request
from tests.serve_process import ServeProcess, write
from tests.server import status_of

SECRET = "T0ps3cretXYZ"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization={SECRET}, and more {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}', 'Accept': 'x'}}",
        f'{{"Authorization": ["Bearer {SECRET}", "{SECRET}"], "Accept": "x"}}',
        f"{{b'cookie': b'a={SECRET}'}}",
        f'headers {{ key: "Authorization" value: "{SECRET}" }}',
        f'hmac_secret: "{SECRET}"',
        f"HmacSecret: {SECRET}",
        f"password={SECRET}&user=a",
        f"redis://:{SECRET}@host:1/0",
        f"rediss+sentinel://user:{SECRET}@host:1/name",
        f"[('Cookie', 'a={SECRET}; b={SECRET}'), ('Accept', 'x')]",
        f'{{\\"X-Api-Key\\": \\"{SECRET}\\", \\"a\\": 1}}',
        f"HTTP_AUTHORIZATION={SECRET}",
        f'basic_auth_data {{ password: "{SECRET}" }}',
        f'jwt_data {{ secret: "{SECRET}" }}',
        f"set-cookie: sid={SECRET}; Path=/",
        f"ValueError: bad token bearer {SECRET}",
        f"Basic {SECRET}==",
        f"proxy-authorization: {SECRET}\r\nHost: a",
        f'{{"password": "a\\"{SECRET}"}}',
    ],
)
def test_what_looks_like_a_secret_is_redacted(text: str) -> None:
    redacted = redact_text(text)
    assert SECRET not in redacted
    assert REDACTED in redacted
    assert redact_text(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "the secret is out",
        "Basic authentication failed",
        "bearer certificates are refused",
        "a cookie was set",
        "handlers/authorization.py:3: SyntaxError",
        "https://example.com/a@b",
        "no password given",
        'key: "Accept" value: "x"',
        "tokens: 12",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "password=",
        "bearer ",
        'key: "',
        'Cookie: ["',
        "basic aaaaaaa",
        "a://",
        "[",
        '"\\',
        "secret: ['a' ",
    ],
)
def test_long_hostile_lines_are_done_in_time(piece: str) -> None:
    """With a pattern that backtracks, this would take minutes."""
    assert redact_text(piece * (200_000 // len(piece))) is not None


def test_known_values_are_redacted_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    add_url_secrets("redis://user:pa%2Fss-word@host:6379/0")
    assert redact_text("x pa/ss-word y pa%2Fss-word z") == f"x {REDACTED} y {REDACTED} z"
    add_url_secrets("redis://user:abc@host")
    add_url_secrets("redis://[broken")
    assert redact_text("abc") == "abc", "so short a word is in many others"


def test_structured_entries() -> None:
    class Thing:
        def __repr__(self) -> str:
            return f"<Thing password={SECRET}>"

    entry = {
        "event": f"Cookie: {SECRET}",
        "Authorization": SECRET,
        "hmac_secret": SECRET,
        "number": 3,
        "nested": {"a": [{"X-Api-Key": SECRET}, (f"secret={SECRET}",)], "ok": True},
        "thing": Thing(),
        "deep": {"a": {"b": {"c": {"d": {"e": {"f": {"password": SECRET}}}}}}},
    }
    redacted = redact_event(None, "info", dict(entry))
    assert SECRET not in repr(redacted)
    assert redacted["number"] == 3
    assert redacted["nested"]["ok"] is True
    json.dumps(redacted)


HANDLERS = """
import logging
import structlog
from coprocess import CustomKeyCheck, Event, Pre, store, trigger_event

@Pre
def talks(request):
    print("headers:", dict(request.headers))
    logging.getLogger("mine").warning("Authorization: %s", request.headers["Authorization"])
    structlog.get_logger("mine").info("seen", cookie=request.headers["Cookie"], Authorization="x")
    try:
        store.get("key")
    except Exception:
        logging.getLogger("mine").exception("the store")
    raise ValueError("cannot use Authorization: " + request.headers["Authorization"])

@CustomKeyCheck
def checks(request, session):
    print(f"hmac_secret: {session.object.hmac_secret}")
    print(session.object.basic_auth_data, session.object.jwt_data)
    raise RuntimeError(f"session {session.object}")

@Event
def note(event):
    print("event", event)
    raise ValueError("Cookie: " + "-".join(["SECRET", "COOKIE"]))
"""

SECRETS = tuple(f"SECRET-{name}" for name in ("AUTH1", "COOKIE", "KEY1", "HMAC1", "BASIC1", "JWT1", "REDIS1"))


def test_end_to_end(tmp_path: Path) -> None:
    broken = 'raise RuntimeError("password=SECRET-KEY1 at redis://u:SECRET-REDIS1@127.0.0.1:1/0")'
    handlers = write(tmp_path / "handlers", a=HANDLERS, broken=broken)
    headers = {
        "Authorization": "Bearer SECRET-AUTH1",
        "Cookie": "sid=SECRET-COOKIE",
        "X-Api-Key": "SECRET-KEY1",
    }
    session = SessionState(
        hmac_secret="SECRET-HMAC1",
        basic_auth_data=BasicAuthData(password="SECRET-BASIC1"),
        jwt_data=JWTData(secret="SECRET-JWT1"),
    )
    request = make_request(headers=headers)
    answers = []
    flags = ("--redis=redis://u:SECRET-REDIS1@127.0.0.1:1/0",)
    with ServeProcess(handlers, *flags) as service:
        with service.client() as client:
            for message in (
                make_object(hook_name="talks", request=request),
                make_object(HookType.CustomKeyCheck, "checks", request=request, session=session),
            ):
                with pytest.raises(grpc.RpcError) as error:
                    client.dispatch(message)
                answers.append(status_of(error.value)[1])
            with pytest.raises(grpc.RpcError) as error:
                client.send_event(event_json(handler="note"))
            answers.append(status_of(error.value)[1])
        pages = [service.http("GET", path)[1] for path in ("/metrics", "/hooks", "/readyz")]
        pages.append(service.http("POST", "/reload")[1])
        assert service.end() == 0
        written = "\n".join([service.text, *answers, *pages])
    for secret in SECRETS:
        assert secret not in written, secret
    # It was said, without the secret: nothing is hidden by not being there.
    for words in (
        "headers:",
        "cannot use Authorization",
        "hmac_secret",
        "the store",
        "RuntimeError: session",
    ):
        assert words in written, (words, written)


def test_the_text_format_too() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logs.configure("text", "info", stream)
        try:
            raise ValueError(f"Authorization: Bearer {SECRET}")
        except ValueError:
            logging.getLogger("mine").exception("it failed")
            structlog.get_logger("mine").exception("it failed", password=SECRET)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert SECRET not in stream.getvalue()
    assert stream.getvalue().count("ValueError: Authorization: [redacted]") == 2
