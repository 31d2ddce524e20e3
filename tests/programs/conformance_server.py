"""The server under test for connectconformance (connectrpc.com/conformance), on the http2 engine.

    connectconformance --mode server --conf conformance.yaml -- python conformance_server.py PROTOS

PROTOS is a folder with the modules that grpc_tools.protoc makes of connectrpc/conformance/v1/{config,service,
server_compat}.proto. All methods are served as streams both ways, so that headers and trailers can be set.
"""

import base64
import signal
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from connectrpc.conformance.v1 import server_compat_pb2 as sc
from connectrpc.conformance.v1 import service_pb2 as s
from google.protobuf import any_pb2
from google.rpc import status_pb2

from coprocess.errors import Status
from coprocess.transport.engine import EngineOptions, Methods
from coprocess.transport.http2_engine import Http2Engine
from coprocess.transport.tls import TlsFiles

P = "/connectrpc.conformance.v1.ConformanceService/"


def header_pairs(headers):
    for h in headers:
        for v in h.value:
            n = h.name.lower()
            if n.endswith("-bin"):
                yield n, base64.b64decode(v + "=" * (-len(v) % 4))
            else:
                yield n, v


def info(rpc, messages):
    out = s.ConformancePayload.RequestInfo()
    by = {}
    for n, v in rpc.metadata():
        by.setdefault(n, []).append(base64.b64encode(v).rstrip(b"=").decode() if isinstance(v, bytes) else v)
    for n, v in by.items():
        out.request_headers.add(name=n, value=v)
    if rpc.time_allowed_s() is not None:
        out.timeout_ms = int(rpc.time_allowed_s() * 1000)
    for m in messages:
        out.requests.add().Pack(m)
    return out


def fail(rpc, error, trailers, extra=None):
    details = list(error.details)
    if extra is not None:
        a = any_pb2.Any()
        a.Pack(extra)
        details.append(a)
    st = status_pb2.Status(code=error.code, message=error.message, details=details)
    rpc.end(int(error.code), error.message, st.SerializeToString() if details else b"", trailers)


def unary(request_type, response_type, many):
    def handler(rpc):
        got = []
        rpc.on_message = lambda m: got.append(request_type.FromString(m))

        def ended():
            if not many and len(got) != 1:
                rpc.end(Status.UNIMPLEMENTED, "one message expected")
                return
            d = got[0].response_definition if got else s.UnaryResponseDefinition()

            def answer():
                rpc_info = info(rpc, got)
                trailers = tuple(header_pairs(d.response_trailers))
                headers = tuple(header_pairs(d.response_headers))
                if headers:
                    rpc.begin(headers)
                if d.HasField("error"):
                    fail(rpc, d.error, trailers, rpc_info)
                    return
                reply = response_type()
                reply.payload.data = d.response_data
                reply.payload.request_info.CopyFrom(rpc_info)
                rpc.send(reply.SerializeToString())
                rpc.end(None, "", b"", trailers)

            if d.response_delay_ms:
                threading.Timer(d.response_delay_ms / 1000, answer).start()
            else:
                answer()

        rpc.on_half_close = ended

    return handler


def server_stream(rpc):
    got = []
    rpc.on_message = lambda m: got.append(s.ServerStreamRequest.FromString(m))

    def ended():
        if len(got) != 1:
            rpc.end(Status.UNIMPLEMENTED, "one message expected")
            return
        stream_out(rpc, got[0].response_definition, got, s.ServerStreamResponse)

    rpc.on_half_close = ended


def stream_out(rpc, d, got, response_type):
    def run():
        trailers = tuple(header_pairs(d.response_trailers))
        rpc.begin(tuple(header_pairs(d.response_headers)))
        for i, data in enumerate(d.response_data):
            if d.response_delay_ms:
                time.sleep(d.response_delay_ms / 1000)
            reply = response_type()
            reply.payload.data = data
            if i == 0:
                reply.payload.request_info.CopyFrom(info(rpc, got))
            rpc.send(reply.SerializeToString())
        if d.HasField("error"):
            fail(rpc, d.error, trailers, None if d.response_data else info(rpc, got))
        else:
            rpc.end(None, "", b"", trailers)

    threading.Thread(target=run, daemon=True).start()


def bidi(rpc):
    got = []
    state = {"sent": 0, "d": None, "full": False}

    def message(m):
        r = s.BidiStreamRequest.FromString(m)
        got.append(r)
        if len(got) == 1:
            state["d"] = r.response_definition
            state["full"] = r.full_duplex
            if r.full_duplex:
                rpc.begin(tuple(header_pairs(r.response_definition.response_headers)))
        if state["full"]:
            d = state["d"]
            if state["sent"] >= len(d.response_data):
                finish()
                return
            i = state["sent"]
            state["sent"] += 1
            reply = s.BidiStreamResponse()
            reply.payload.data = d.response_data[i]
            if i == 0:
                reply.payload.request_info.CopyFrom(info(rpc, [r]))
            else:
                reply.payload.request_info.requests.add().Pack(r)
            if d.response_delay_ms:
                time.sleep(d.response_delay_ms / 1000)
            rpc.send(reply.SerializeToString())

    def finish():
        d = state["d"] or s.StreamResponseDefinition()
        trailers = tuple(header_pairs(d.response_trailers))
        if d.HasField("error"):
            fail(rpc, d.error, trailers, None if state["sent"] else info(rpc, got))
        else:
            rpc.end(None, "", b"", trailers)

    def ended():
        if state["d"] is None:
            finish()
            return
        if not state["full"]:
            stream_out(rpc, state["d"], got, s.BidiStreamResponse)
            return
        d = state["d"]

        def rest():
            while state["sent"] < len(d.response_data):
                i = state["sent"]
                state["sent"] += 1
                if d.response_delay_ms:
                    time.sleep(d.response_delay_ms / 1000)
                reply = s.BidiStreamResponse()
                reply.payload.data = d.response_data[i]
                if i == 0:
                    reply.payload.request_info.CopyFrom(info(rpc, got))
                rpc.send(reply.SerializeToString())
            finish()

        threading.Thread(target=rest, daemon=True).start()

    rpc.on_message = message
    rpc.on_half_close = ended


raw = sys.stdin.buffer
(n,) = struct.unpack(">I", raw.read(4))
req = sc.ServerCompatRequest.FromString(raw.read(n))
tls = None
pem = b""
if req.use_tls:
    d = Path(tempfile.mkdtemp())
    (d / "c").write_bytes(req.server_creds.cert)
    (d / "k").write_bytes(req.server_creds.key)
    ca = None
    if req.client_tls_cert:
        (d / "ca").write_bytes(req.client_tls_cert)
        ca = d / "ca"
    tls = TlsFiles(d / "c", d / "k", ca)
    pem = req.server_creds.cert
bidis = {
    P + "Unary": unary(s.UnaryRequest, s.UnaryResponse, False),
    P + "IdempotentUnary": unary(s.IdempotentUnaryRequest, s.IdempotentUnaryResponse, False),
    P + "ClientStream": unary(s.ClientStreamRequest, s.ClientStreamResponse, True),
    P + "ServerStream": server_stream,
    P + "BidiStream": bidi,
}
engine = Http2Engine(
    EngineOptions(
        max_message_bytes=req.message_receive_limit or 4 << 20,
        min_threads=1,
        max_threads=4,
        max_concurrent_streams=1000,
        max_metadata_bytes=16384,
        tls=tls,
    )
)
engine.max_message_bytes = 4 << 20
address = engine.listen("127.0.0.1:0")
engine.start(Methods(bidi=bidis))
out = sc.ServerCompatResponse(
    host="127.0.0.1", port=int(address.rpartition(":")[2]), pem_cert=pem
).SerializeToString()
sys.stdout.buffer.write(struct.pack(">I", len(out)) + out)
sys.stdout.buffer.flush()
signal.sigwait([signal.SIGTERM])
engine.stop()
