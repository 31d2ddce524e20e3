"""The message classes: compiled from proto/, apart from everybody else's, and safe for newer gateways."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess.gateways.tyk import wire
from tests.objects import UNKNOWN_FIELD, answer, make_object, make_request, make_response

PROJECT = Path(__file__).parent.parent
PROTO = PROJECT / "proto"
COMPILED = PROJECT / "coprocess" / "gateways" / "tyk" / "wire"


def test_committed_files_are_what_proto_compiles_to(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(PROTO / "compile.py"), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {
        path.name: path.read_bytes()
        for path in COMPILED.iterdir()
        if path.suffix in (".pyi", ".descriptorset")
    }
    assert len(made) == 7
    assert made == committed


def test_numbers_of_the_protocol() -> None:
    numbers = {field.name: field.number for field in wire.MiniRequestObject.DESCRIPTOR.fields}
    assert numbers["return_overrides"] == 10
    assert numbers["raw_body"] == 14
    assert [field.number for field in wire.SessionState.DESCRIPTOR.fields] == list(range(1, 35))
    assert dict(wire.HookType.items()) == {
        "Unknown": 0,
        "Pre": 1,
        "Post": 2,
        "PostKeyAuth": 3,
        "CustomKeyCheck": 4,
        "Response": 5,
    }
    assert wire.DISPATCH == "/coprocess.Dispatcher/Dispatch"
    assert wire.DISPATCH_EVENT == "/coprocess.Dispatcher/DispatchEvent"


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_plugin_may_import_its_own_generated_modules(tmp_path: Path, *, ours_first: bool) -> None:
    sources = sorted(path.name for path in PROTO.glob("*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTO}",
            f"--python_out={tmp_path}",
            *sources,
        ],
        check=True,
    )
    imports = ["from coprocess.gateways.tyk.wire import Object", "import coprocess_object_pb2 as theirs"]
    program = "\n".join(
        [
            *(imports if ours_first else reversed(imports)),
            "assert theirs.Object is not Object",
            "sent = theirs.Object(hook_name='a', hook_type=1)",
            "assert Object.FromString(sent.SerializeToString()).hook_name == 'a'",
            "from coprocess.gateways.tyk.wire import MODULES",
            "assert MODULES['coprocess_object_pb2'].Object is Object",
        ]
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env={"PYTHONPATH": str(tmp_path)}, check=True
    )


def test_modules_offer_what_protoc_generates() -> None:
    common = wire.MODULES["coprocess_common_pb2"]
    assert common.HookType.Name(4) == "CustomKeyCheck"
    assert common.CustomKeyCheck == 4
    assert common.DESCRIPTOR.package == "coprocess"
    assert set(wire.MODULES) == {f"{path.stem}_pb2" for path in PROTO.glob("*.proto")}


def with_unknown_fields(message: wire.Object) -> bytes:
    """In the Object, and in what it holds."""
    request = wire.MiniRequestObject.FromString(message.request.SerializeToString() + UNKNOWN_FIELD)
    message.request.CopyFrom(request)
    if message.HasField("response"):
        response = wire.ResponseObject.FromString(message.response.SerializeToString() + UNKNOWN_FIELD)
        message.response.CopyFrom(response)
    return message.SerializeToString() + UNKNOWN_FIELD


@pytest.mark.parametrize("full_reply", [True, False])
def test_unknown_fields_survive_a_handler_that_edits(*, full_reply: bool) -> None:
    def edit(request: object) -> None:
        request.headers["X-A"] = "1"  # type: ignore[attr-defined]  # handlers are called by name, not type

    sent = wire.Object.FromString(with_unknown_fields(make_object()))
    reply = answer(edit, sent, full_reply=full_reply)
    assert reply.SerializeToString().count(UNKNOWN_FIELD) == 2
    assert reply.request.set_headers["X-A"] == "1"


@pytest.mark.parametrize("full_reply", [True, False])
def test_unknown_fields_survive_in_response_hooks(*, full_reply: bool) -> None:
    from coprocess.api.moments import HookType

    def edit(response: object) -> None:
        response.body = b"new"  # type: ignore[attr-defined]  # handlers are called by name, not type

    sent = wire.Object.FromString(with_unknown_fields(make_object(HookType.Response)))
    reply = answer(edit, sent, full_reply=full_reply).SerializeToString()
    # Trimmed, the request does not travel, nor what is in it.
    assert reply.count(UNKNOWN_FIELD) == (3 if full_reply else 2)


@given(number=st.integers(35, 1000), data=st.binary(max_size=50), full_reply=st.booleans())
def test_any_unknown_field_survives(number: int, data: bytes, full_reply: bool) -> None:
    def varint(value: int) -> bytes:
        octets = bytearray()
        while value > 0x7F:
            octets.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes(octets) + bytes([value])

    unknown = varint(number << 3 | 2) + varint(len(data)) + data
    sent = wire.Object(request=make_request(), hook_type="Pre", hook_name="hook")
    request = wire.MiniRequestObject.FromString(sent.request.SerializeToString() + unknown)
    sent.request.CopyFrom(request)
    reply = answer(
        lambda: None, wire.Object.FromString(sent.SerializeToString() + unknown), full_reply=full_reply
    )
    rest = wire.MiniRequestObject()
    rest.CopyFrom(reply.request)
    for field in wire.MiniRequestObject.DESCRIPTOR.fields:
        rest.ClearField(field.name)
    assert rest.SerializeToString() == unknown
    for field in wire.Object.DESCRIPTOR.fields:
        reply.ClearField(field.name)
    assert reply.SerializeToString() == unknown


def test_builders_are_as_the_gateway_sends() -> None:
    assert make_request(body=b"\xff").body == ""
    response = make_response(headers=[("Set-Cookie", "a"), ("Set-Cookie", "b")])
    assert dict(response.headers) == {"Set-Cookie": "a"}
    assert list(response.multivalue_headers[0].values) == ["a", "b"]
