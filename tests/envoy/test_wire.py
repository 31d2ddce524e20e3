"""The messages: compiled from proto/envoy, apart from everybody else's, and those that Envoy sends."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from coprocess.gateways.envoy import encoding, wire

PROJECT = Path(__file__).parent.parent.parent
PROTO = PROJECT / "proto" / "envoy"
COMPILED = PROJECT / "coprocess" / "gateways" / "envoy" / "wire"
RECORDINGS = PROJECT.parent / "shared" / "envoy" / "recordings"


def test_committed_files_are_what_proto_compiles_to(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(PROTO / "compile.py"), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {
        path.name: path.read_bytes()
        for path in COMPILED.iterdir()
        if path.suffix in (".pyi", ".descriptorset")
    }
    assert len(made) == 9
    assert made == committed


def test_the_licence_lies_beside_the_protos() -> None:
    assert "Apache License" in (PROTO / "LICENSE").read_text()


def test_the_default_pool_has_none_of_the_messages() -> None:
    program = (
        "from google.protobuf import descriptor_pool, struct_pb2\n"
        "from coprocess.gateways.envoy import wire\n"
        "assert wire.Struct is not struct_pb2.Struct\n"
        "try: descriptor_pool.Default().FindFileByName('envoy/config/core/v3/base.proto')\n"
        "except KeyError: pass\n"
        "else: raise SystemExit('it is there')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)


def test_a_struct_is_used_as_a_mapping() -> None:
    metadata = wire.Struct()
    metadata.update({"token": "a", "tags": ["x", "y"], "more": {"n": 1}})
    twin = wire.Struct.FromString(metadata.SerializeToString())
    assert json_format.MessageToDict(twin) == {"token": "a", "tags": ["x", "y"], "more": {"n": 1.0}}


@pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="the recordings of a real Envoy are not beside this project"
)
def test_every_recorded_message_is_read_without_unknown_fields() -> None:
    seen = 0
    for path in sorted(RECORDINGS.glob("*.json")):
        for stream in json.loads(path.read_text())["streams"]:
            asked, answered = (
                (wire.CheckRequest, wire.CheckResponse)
                if stream["service"] == "ext_authz"
                else (wire.ProcessingRequest, wire.ProcessingResponse)
            )
            for message in stream["messages"]:
                # What is no message on purpose has none, and large texts are given by their hash.
                raw = message.get("raw")
                if "json" not in message or not isinstance(raw, str) or path.name.startswith("fail_garbage"):
                    continue
                kind = asked if message["from"] == "envoy" else answered
                read = kind.FromString(base64.b64decode(raw))
                written = json_format.MessageToDict(read, preserving_proto_field_name=True)
                assert written == message["json"], path.name
                seen += 1
    assert seen > 300


def test_header_edits_of_every_length_are_what_envoy_reads() -> None:
    for append in (False, True):
        for size in range(300):
            value = b"v" * size
            raw = encoding.set_header(b"x-name", value, append=append)
            (option,) = wire.HeaderMutation.FromString(raw).set_headers
            assert (option.header.key, option.header.raw_value) == ("x-name", value)
            assert option.append.value is append
            assert option.append_action == (0 if append else 2)


def test_a_caller_who_has_a_token_only_is_told_as_all_others() -> None:
    for size in (1, 100, 1000):
        token = "t" * size
        raw = encoding.struct_of_one("coprocess.session", "token", token)
        assert raw == encoding.struct({"coprocess.session": {"token": token}})


@pytest.mark.parametrize("size", [*range(100, 132), 16_383, 16_384, 3_000_000])
def test_lengths_of_replies_are_right_on_both_sides_of_one_byte(size: int) -> None:
    """What is made by one format is what the classes read."""
    text = b"v" * size
    option = wire.OkHttpResponse.FromString(encoding.set_text_header(b"x-name", text, 2)).headers[0]
    assert (option.header.key, option.header.value) == ("x-name", text.decode())

    common = encoding.field(2, encoding.set_header(b"x-name", text))
    reply = wire.ProcessingResponse.FromString(encoding.reply(encoding.REQUEST_HEADERS, common))
    edit = reply.request_headers.response.header_mutation.set_headers[0]
    assert edit.header.raw_value == text

    rest, session = encoding.CLEAR_ROUTE_CACHE, encoding.struct({"coprocess.session": {"token": "t"}})
    raw = encoding.reply_with_body(encoding.REQUEST_BODY, common, text, rest, session)
    reply = wire.ProcessingResponse.FromString(raw)
    assert reply.request_body.response.body_mutation.body == text
    assert reply.request_body.response.header_mutation.set_headers[0].header.raw_value == text
    assert reply.request_body.response.clear_route_cache
    assert "coprocess.session" in reply.dynamic_metadata.fields
