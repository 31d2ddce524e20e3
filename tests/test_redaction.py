"""No secret gets into what the service writes: by unit, and end to end with secrets in every place."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import BasicAuthData, JWTData, SessionState
from coprocess.process import logs, redaction
from coprocess.process.redaction import add_url_secrets, redact_event, redact_text
from coprocess.process.secret_text import REDACTED
from coprocess.store import parse_url
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


HEADERS = (
    *("Token", "X-Auth", "X-Api-Token", "X-Vault-Token", "Private-Token", "Ocp-Apim-Subscription-Key"),
    *("X-Session-Id", "X-Hub-Signature", "X-Hub-Signature-256", "Authorization", "Proxy-Authorization"),
    *("Cookie", "Set-Cookie", "X-Api-Key", "apikey", "X-Amz-Security-Token", "X-Goog-Api-Key", "X-Auth-Key"),
    *("X-Client-Secret", "X-JWT-Assertion", "Stripe-Signature", "X-CSRF-Token", "X-OTP"),
)
PARAMETERS = (
    *("token", "sig", "code", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "access_token"),
    *(
        "id_token",
        "refresh_token",
        "client_secret",
        "state",
        "SAMLResponse",
        "api_key",
        "apikey",
        "key",
        "pass",
    ),
    *(
        "auth",
        "session",
        "sid",
        "ticket",
        "assertion",
        "signature",
        "hmac",
        "otp",
        "password",
        "jwt",
        "nonce",
    ),
    *("code_verifier", "client_assertion", "oauth_token", "pin", "subscription-key", "AWSAccessKeyId"),
    *("sessionToken", "device_code", "Key-Pair-Id"),
)
#: What programs make of a header.
HEADER_FORMS: tuple[Callable[[str, str], str], ...] = (
    lambda name, value: f"{name}: {value}",
    lambda name, value: f"GET / HTTP/1.1\r\n{name}: {value}\r\nHost: a",
    lambda name, value: repr({name: value}),
    lambda name, value: json.dumps({"a": 1, name: [value]}),
    lambda name, value: json.dumps(json.dumps({name: value})),
    lambda name, value: json.dumps({"name": name, "value": value}),
    lambda name, value: repr([(name.encode(), value.encode())]),
    lambda name, value: f'headers {{ key: "{name}" value: {json.dumps(value)} }}',
    # As a request's headers show themselves.
    lambda name, value: f"HeldHeaders({[('Accept', ['*/*']), (name, ['a', value])]})",
    lambda name, value: f"curl -H '{name}: {value}' http://a/",
)
#: Of a parameter, field or setting.
PARAMETER_FORMS: tuple[Callable[[str, str], str], ...] = (
    lambda name, value: f"GET /a?{name}={value}",
    lambda name, value: f"https://a/b?c=d&{name}={value}&e=f",
    lambda name, value: f"{name}={value}&a=b",
    lambda name, value: f"/a?next=%2Fb%3F{name}%3D{value}%26c%3Dd",
    lambda name, value: f"/a?next=%252Fb%253Fc%253Dd%2526{name}%253D{value}",
    lambda name, value: json.dumps({"a": {name: value}}),
    lambda name, value: repr({name: [value]}),
    lambda name, value: f"call({name}={value!r}, b=1)",
    lambda name, value: f"<{name}>{value}</{name}>",
    lambda name, value: f"--{name} {value} --other x",
    lambda name, value: f"{name} = {value}",
)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
@pytest.mark.parametrize("value", ["{}", "Token {}", "a, {}, {}", "a={}; b={}"])
def test_headers_whose_words_name_a_secret_are_redacted_in_every_form(
    name: str, spell: Callable[[str], str], value: str
) -> None:
    for form in HEADER_FORMS:
        text = form(spell(name), value.replace("{}", SECRET))
        redacted = redact_text(text)
        assert SECRET not in redacted, text
        assert redact_text(redacted) == redacted
    assert redact_event(None, "info", {spell(name): SECRET}) == {spell(name): REDACTED}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
def test_parameters_that_are_secrets_are_redacted_in_every_form(
    name: str, spell: Callable[[str], str]
) -> None:
    for form in PARAMETER_FORMS:
        text = form(spell(name), SECRET)
        redacted = redact_text(text)
        assert SECRET not in redacted, text
        assert redact_text(redacted) == redacted


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


@pytest.mark.parametrize(
    "text",
    [
        f"it said {JWT}, and then no more",
        f"/login/{JWT}?a=b",
        f"a=%20{JWT}",
        repr(f"a\n{JWT}"),
        f"[{JWT}]",
        f"<{JWT}>",
    ],
)
def test_json_web_tokens_are_redacted_anywhere(text: str) -> None:
    redacted = redact_text(text)
    assert redacted == text.replace(JWT, REDACTED)


@pytest.mark.parametrize(
    "text",
    [
        f'Digest username="u", realm="r", nonce="n", uri="/", response="{SECRET}", opaque="o"',
        f"AWS4-HMAC-SHA256 Credential={SECRET}/x, SignedHeaders=host, Signature={SECRET}",
        f'Signature keyId="k",algorithm="hs2019",signature="{SECRET}"',
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"redis://u:a/{SECRET}@host/0",
        f"redis://u:a@{SECRET}@host/0",
        # Of forms, of JSON in a query, of services that many use.
        f"password[]={SECRET}&user[pw]={SECRET}",
        f"?q=%7B%22password%22%3A%22{SECRET}%22%7D",
        f"ghp_{SECRET}{'a' * 20} xoxb-1-{SECRET}, sk_live_{SECRET}.",
    ],
)
def test_credentials_are_redacted_by_their_form(text: str) -> None:
    redacted = redact_text(text)
    assert SECRET not in redacted
    assert redact_text(redacted) == redacted


NAMES = st.sampled_from([*HEADERS, "password", "access_token", "clientSecret", "HMAC_SECRET", "session_id"])


@settings(max_examples=50)
@given(NAMES, st.text(min_size=1), st.sampled_from([repr, json.dumps]))
def test_no_quoted_secret_survives(name: str, middle: str, shown: Callable[[object], str]) -> None:
    """Whatever characters are in it."""
    redacted = redact_text(f"before {shown({name: SECRET + middle + SECRET, 'other': 1})} after")
    assert SECRET not in redacted
    assert redacted.endswith(" after")


@settings(max_examples=50)
@given(NAMES, st.text(st.characters(exclude_characters="\r\n")))
def test_no_secret_header_survives(name: str, middle: str) -> None:
    assert SECRET not in redact_text(f"{name}: {SECRET}{middle}{SECRET}\r\nHost: a")


@settings(max_examples=50)
@given(st.text(st.sampled_from("abc token=secret:key?&'\"[]{}()<>%3D\\\n-,;.1 eyJ://@")))
def test_redaction_ends_and_is_done_once(text: str) -> None:
    redacted = redact_text(text)
    assert redact_text(redacted).count(REDACTED) >= redacted.count(REDACTED)


PROSE = st.lists(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=8), min_size=1)


@settings(max_examples=50)
@given(PROSE, PROSE)
def test_sentences_stay(words: list[str], more: list[str]) -> None:
    text = f"{' '.join(words)} - {', '.join(more)}. You can't!"
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "You can't: keyboard: qwerty12345, author: bob12345678, passenger=Anna12345678",
        "tokenizer: bert1234567890",
        "Content-Length: 12",
        "Access-Control-Allow-Headers: X-Foo, Authorization",
        "X-RateLimit-Remaining: 5",
        "Authorize-Url: https://example.com/authorize",
        "Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324",
        "http://127.0.0.1:5555/a@b",
        "max_tokens=4096",
        "KeyError: 'absent'",
        "status_code=404&state_code=1",
        '{"code": "NOT_FOUND", "state": "open", "key": "value"}',
        "tls_key: /etc/server.key: cannot be read: Permission denied",
        # Once, nothing was left to read of what is wrong with the flag.
        "--tls-key: tls_cert and tls_key go together, and only one is set",
        "InvalidToken: not signed",
        "invalid token: not signed",
        "def f(token: str, password: str | None = None) -> None:",
        "token_type=bearer",
        "password: None",
        '{"auth": {"auth_header_name": "Authorization"}, "use_basic_auth": true}',
        'key_headers: ["Authorization", "Cookie"]',
        "sorted(pairs, key=len)",
        "pass: 3, fail: 2, bypass=1, compass: north",
        "GET /a?page=2&sort=name&country_code=DE",
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
        "key: '",
        "key=",
        "key:",
        "token",
        "%25",
        "a%3D",
        "code=a&",
        "token=(\n",
        "cookie: {\n",
        "eyJeyJeyJ",
        "eyJaaaaaa.",
        "a.",
        "\\n",
        "://a:b",
        "@://",
        "-----BEGIN PRIVATE KEY-----",
        "<a ",
        "--a ",
        "Digest a=b, ",
        'name: "token", value: ',
        "tokens: 1",
        "password=None,",
    ],
)
@pytest.mark.timeout(30)
def test_long_hostile_lines_are_done_in_time(piece: str) -> None:
    """With a pattern that backtracks, this would take minutes; as it is, half a second at most."""
    assert redact_text(piece * (100_000 // len(piece))) is not None


def test_known_values_are_redacted_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    add_url_secrets("redis://user:pa%2Fss-word@host:6379/0")
    assert redact_text("x pa/ss-word y pa%2Fss-word z") == f"x {REDACTED} y {REDACTED} z"
    add_url_secrets("redis://user:abc@host")
    add_url_secrets("redis://[broken")
    assert redact_text("abc") == "abc", "so short a word is in many others"
    add_url_secrets("redis://user:connect@host")
    assert redact_text("connection to connect") == f"connection to {REDACTED}", "part of a word is none"


def test_short_credentials_of_the_store_mangle_no_sentence() -> None:
    address = parse_url("redis://u:pa@host")
    assert (
        address.redact("You can't pause: user 'u' at u:pa@host")
        == "You can't pause: user '***' at u:***@host"
    )
    assert parse_url("redis://u:longer-one@host").redact("xlonger-onex") == "x***x"


def test_structured_entries() -> None:
    class Thing:
        def __repr__(self) -> str:
            return f"<Thing password={SECRET}>"

    entry = {
        "event": f"Cookie: {SECRET}",
        "Authorization": SECRET,
        "headers": [("X-Auth", SECRET), (b"Cookie", SECRET.encode())],
        "raw": {b"x-vault-token": SECRET.encode()},
        "code": SECRET,
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
import threading
import structlog
from coprocess import CustomKeyCheck, Event, Pre, store, trigger_event

def in_a_thread(secret):
    raise RuntimeError("in a thread\\x1b[31m, Authorization: " + secret)

class Ends:
    def __del__(self):
        raise RuntimeError("at the end, X-Api-Key: " + self.secret)

@Pre
def talks(request):
    print("headers:", dict(request.headers))
    logging.getLogger("mine").warning("Authorization: %s", request.headers["Authorization"])
    structlog.get_logger("mine").info("seen", cookie=request.headers["Cookie"], Authorization="x")
    try:
        store.get("key")
    except Exception:
        logging.getLogger("mine").exception("the store")
    # Python itself would write of it, past the log.
    thread = threading.Thread(target=in_a_thread, args=(request.headers["Authorization"],))
    thread.start()
    thread.join()
    Ends().secret = request.headers["X-Api-Key"]
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
        "RuntimeError: in a thread",
        "RuntimeError: at the end",
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


def test_the_request_in_an_event_is_a_secret() -> None:
    raw = base64.b64encode(b"GET / HTTP/1.1\r\nAuthorization: geheim\r\n\r\n").decode()
    event = {"Type": "AuthFailure", "Meta": {"Path": "/a", "OriginatingRequest": raw}}

    for text in (str(event), json.dumps(event), f"OriginatingRequest={raw}"):
        assert raw not in redact_text(text)
        assert "AuthFailure" in redact_text(text) or "=" in text
