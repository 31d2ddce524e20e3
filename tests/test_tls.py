"""TLS and mutual TLS with real certificates, and their replacement while the service runs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from coprocess.errors import ConfigError
from coprocess.gateways.tyk.wire import DISPATCH, Object
from coprocess.process.options import engine_options
from coprocess.process.settings_loading import load_settings
from coprocess.transport.engine import Engine
from coprocess.transport.engines import make_engine
from coprocess.transport.health import Health
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server
from coprocess.transport.tls import TlsFiles
from tests import forked
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@dataclass(frozen=True)
class Certificate:
    cert: Path
    key: Path


def make_ca(folder: Path, name: str) -> Certificate:
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-keyout", str(made.key), "-out", str(made.cert), "-subj", f"/CN={name}",
    )  # fmt: skip
    return made


def make_certificate(folder: Path, name: str, ca: Certificate) -> Certificate:
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", str(made.key), "-out", str(request), "-subj", f"/CN={name}",
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(ca.cert), "-CAkey", str(ca.key), "-days", "2",
        "-CAcreateserial", "-out", str(made.cert), "-extfile", str(extensions),
    )  # fmt: skip
    return made


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    folder = tmp_path_factory.mktemp("pki")
    first, second = make_ca(folder, "first-ca"), make_ca(folder, "second-ca")
    return {
        "first-ca": first,
        "second-ca": second,
        "server": make_certificate(folder, "server", first),
        "new-server": make_certificate(folder, "new-server", second),
        "client": make_certificate(folder, "client", first),
        "stranger": make_certificate(folder, "stranger", second),
    }


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=stamping("secure"))


def call(address: str, ca: Certificate, client: Certificate | None = None) -> str:
    """The stamp, over a connection of its own. Raises grpc.RpcError."""
    credentials = grpc.ssl_channel_credentials(
        ca.cert.read_bytes(),
        client.key.read_bytes() if client else None,
        client.cert.read_bytes() if client else None,
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(DISPATCH)
        payload = make_object(hook_name="stamp").SerializeToString()
        return Object.FromString(method(payload, timeout=PATIENCE_S)).request.set_headers["X-Stamp"]


def tls_flags(server: Certificate) -> list[str]:
    return [f"--tls-cert={server.cert}", f"--tls-key={server.key}"]


with_tls = pytest.mark.parametrize("engine", ["http2", "grpcio"])


def test_tls_also_on_a_public_address(handlers: Path, pki: dict[str, Certificate]) -> None:
    with ServeProcess(handlers, *tls_flags(pki["server"]), listen="0.0.0.0:0") as service:
        listening = service.logged("listening")
        assert (listening["engine"], listening["because"]) == ("http2", "the fastest")
        address = f"127.0.0.1:{service.address.rpartition(':')[2]}"
        assert call(address, pki["first-ca"]) == "secure"
        with pytest.raises(grpc.RpcError):
            call(address, pki["second-ca"])
        with grpc.insecure_channel(address) as channel:
            plain: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(DISPATCH)
            with pytest.raises(grpc.RpcError):
                plain(b"", timeout=PATIENCE_S)


def test_handshakes_of_many_at_one_time_leave_others_their_turn(pki: dict[str, Certificate]) -> None:
    """Once, all were made before any other connection was looked at."""
    tls = TlsFiles(pki["server"].cert, pki["server"].key).http2_context
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, hello, server_hostname="localhost").do_handshake()
    first = hello.read()
    with ExitStack() as at_end:
        server = Server({}, Limits())
        at_end.callback(server.close)
        bound = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.listen(bound, tls)
        clients = [
            at_end.enter_context(socket.create_connection(bound.getsockname(), PATIENCE_S)) for _ in range(20)
        ]
        for client in clients:
            client.sendall(first)
        answered: list[int] = []

        def are_all_answered() -> bool:
            server.poll(0.0)
            readable, _, _ = select.select(clients, [], [], 0)
            answered.append(len(readable))
            return len(readable) == len(clients)

        until(are_all_answered)
        assert max(after - before for before, after in pairwise([0, *answered])) <= 4


@pytest.mark.parametrize(
    ("offered", "is_served"), [(["h2"], True), (["http/1.1", "h2"], True), (["http/1.1"], False), ([], False)]
)
def test_a_client_that_does_not_ask_for_http2_is_told_nothing(
    pki: dict[str, Certificate], offered: list[str], is_served: bool
) -> None:
    """RFC 9113 §3.2: by ALPN. What it would say first may be taken for something else."""
    client = client_context()
    client.set_alpn_protocols(offered)
    assert first_bytes(pki["server"], client)[3:5] == (b"\4\0" if is_served else b"")  # SETTINGS.


@pytest.mark.parametrize(
    ("ciphers", "is_served"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-SHA", False),
    ],
)
def test_of_tls_1_2_no_cipher_is_taken_that_http2_forbids(
    pki: dict[str, Certificate], ciphers: str, is_served: bool
) -> None:
    """RFC 9113 §9.2.2, appendix A."""
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    client.set_alpn_protocols(["h2"])
    if is_served:
        assert first_bytes(pki["server"], client)[3:5] == b"\4\0"
        return
    with pytest.raises(ssl.SSLError, match="handshake failure"):
        first_bytes(pki["server"], client)


def client_context() -> ssl.SSLContext:
    """That trusts whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def first_bytes(itself: Certificate, client: ssl.SSLContext) -> bytes:
    """What a server says first to such a client, until it waits for more or closes."""
    tls = TlsFiles(itself.cert, itself.key).http2_context
    with ExitStack() as at_end:
        server = Server({}, Limits())
        at_end.callback(server.close)
        bound = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.listen(bound, tls)
        connection = at_end.enter_context(socket.create_connection(bound.getsockname(), PATIENCE_S))
        connection.setblocking(False)
        secured = at_end.enter_context(client.wrap_socket(connection, do_handshake_on_connect=False))
        said: list[bytes] = []

        def has_said() -> bool:
            server.poll(0.0)
            try:
                secured.do_handshake()
                said.append(secured.recv(100))
            except ssl.SSLWantReadError:
                return False
            return True

        until(has_said)
        return said[0]


@with_tls
def test_mutual_tls(handlers: Path, pki: dict[str, Certificate], engine: str) -> None:
    flags = [f"--engine={engine}", *tls_flags(pki["server"]), f"--tls-client-ca={pki['first-ca'].cert}"]
    with ServeProcess(handlers, *flags) as service:
        assert call(service.address, pki["first-ca"], pki["client"]) == "secure"
        for client in (None, pki["stranger"]):
            with pytest.raises(grpc.RpcError):
                call(service.address, pki["first-ca"], client)


def put(live: Certificate, cert: Path, key: Path) -> None:
    """Put other files in the place of those of `live`."""
    for source, target in ((cert, live.cert), (key, live.key)):
        fresh = target.with_suffix(".new")
        shutil.copy(source, fresh)
        os.replace(fresh, target)


@with_tls
def test_replaced_files_are_used_for_new_connections(
    handlers: Path, pki: dict[str, Certificate], tmp_path: Path, engine: str
) -> None:
    live = Certificate(tmp_path / "live.pem", tmp_path / "live.key")
    put(live, pki["server"].cert, pki["server"].key)
    with ServeProcess(handlers, f"--engine={engine}", *tls_flags(live)) as service:
        assert call(service.address, pki["first-ca"]) == "secure"
        # The certificate of one, the key of another, as in the middle of a replacement.
        put(live, pki["new-server"].cert, pki["server"].key)
        assert call(service.address, pki["first-ca"]) == "secure"
        assert "MISMATCH" in service.wait_for("the new TLS files are not used")["reason"].upper()
        put(live, pki["new-server"].cert, pki["new-server"].key)
        assert call(service.address, pki["second-ca"]) == "secure"
        service.wait_for("TLS files reloaded")
        with pytest.raises(grpc.RpcError):
            call(service.address, pki["first-ca"])


@with_tls
def test_replaced_files_are_used_at_each_address(
    pki: dict[str, Certificate], tmp_path: Path, engine: str
) -> None:
    """Once, the address that was called first had the new ones, and all others the old."""
    live = Certificate(tmp_path / "live.pem", tmp_path / "live.key")
    put(live, pki["server"].cert, pki["server"].key)
    made = _make_engine({"engine": engine, "tls_cert": str(live.cert), "tls_key": str(live.key)})
    addresses = [made.listen("127.0.0.1:0") for _ in range(2)]
    made.start(Health(()).methods)
    try:
        for name in ("server", "new-server"):
            put(live, pki[name].cert, pki[name].key)
            expected = ssl.PEM_cert_to_DER_cert(pki[name].cert.read_text())
            assert [shown_certificate(address) == expected for address in addresses] == [True, True], name
    finally:
        made.stop()


def test_files_that_cannot_be_used_keep_what_is_there_at_each_address(
    pki: dict[str, Certificate], tmp_path: Path
) -> None:
    """Once, where new ones were good and then bad, an address that was not called meanwhile took the bad."""
    live = Certificate(tmp_path / "live.pem", tmp_path / "live.key")
    put(live, pki["server"].cert, pki["server"].key)
    made = _make_engine({"engine": "http2", "tls_cert": str(live.cert), "tls_key": str(live.key)})
    first, second = (made.listen("127.0.0.1:0") for _ in range(2))
    made.start(Health(()).methods)
    try:
        put(live, pki["new-server"].cert, pki["new-server"].key)
        expected = ssl.PEM_cert_to_DER_cert(pki["new-server"].cert.read_text())
        assert shown_certificate(first) == expected
        put(live, pki["new-server"].cert, pki["server"].key)
        assert [shown_certificate(each) == expected for each in (first, second)] == [True, True]
    finally:
        made.stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_does_not_outlive_the_authority_of_its_client(
    pki: dict[str, Certificate], tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Once, who had one was let in by it, and got the next, when the authority was none any more."""
    live = tmp_path / "live-ca.pem"
    shutil.copy(pki["first-ca"].cert, live)
    files = TlsFiles(pki["server"].cert, pki["server"].key, live)
    client = client_context()
    client.minimum_version = client.maximum_version = version
    client.load_cert_chain(pki["client"].cert, pki["client"].key)
    session = _handshake(files, client, None)
    live.write_bytes(pki["second-ca"].cert.read_bytes() + b"\n")
    with pytest.raises(ssl.SSLError, match="verify failed"):
        _handshake(files, client, session)


def test_no_session_of_tls_1_3_is_taken_up_again(pki: dict[str, Certificate]) -> None:
    """Each brings a ticket for the next: a client whose certificate is over could go on for ever."""
    files = TlsFiles(pki["server"].cert, pki["server"].key, pki["first-ca"].cert)
    client = client_context()
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    client.load_cert_chain(pki["client"].cert, pki["client"].key)
    session = _handshake(files, client, None)
    assert session is None or not session.has_ticket


def _handshake(
    files: TlsFiles, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    """The client's session afterwards. Raises what the server's side does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = files.http2_context().wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, session=session)
    are_done = {ours: False, theirs: False}
    while not all(are_done.values()):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                are_done[side] = True
    ours.write(b"!")
    assert theirs.read() == b"!"  # And the tickets before it.
    return theirs.session


def shown_certificate(address: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), PATIENCE_S) as plain,
        context.wrap_socket(plain) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def _make_engine(given: dict[str, str]) -> Engine:
    settings = load_settings(given)
    return make_engine(settings.engine, engine_options(settings))[0]


def test_wrong_settings_are_one_clear_line(
    handlers: Path, pki: dict[str, Certificate], tmp_path: Path
) -> None:
    server, other = pki["server"], pki["client"]
    (tmp_path / "no.pem").write_text("nothing")
    cases = (
        ([f"--tls-cert={server.cert}"], "tls_cert and tls_key go together"),
        ([f"--tls-client-ca={server.cert}"], "tls_client_ca goes with tls_cert"),
        (tls_flags(Certificate(server.cert, other.key)), "tls_key"),
        (tls_flags(Certificate(server.cert, tmp_path / "missing.key")), "tls_key: "),
        ([*tls_flags(server), f"--tls-client-ca={tmp_path / 'no.pem'}"], "tls_client_ca: "),
    )
    for flags, words in cases:
        pairs = [flag.removeprefix("--").split("=") for flag in flags]
        given = {name.replace("-", "_"): value for name, value in pairs}
        with pytest.raises(ConfigError) as error:
            _make_engine(given)
        assert words in str(error.value)
        assert "PRIVATE" not in str(error.value)
    with ServeProcess(handlers, *cases[2][0], wait=False) as service:
        assert service.wait() == 1
        (line,) = service.lines
        assert line["event"].startswith("coprocess: tls_cert ")


def test_call_says_which_side_speaks_tls(handlers: Path, pki: dict[str, Certificate], tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        command = [sys.executable, "-m", "coprocess", "call", "Pre", "stamp", *arguments]
        done = forked.run(
            [*command, "--address", service.address],
            cwd=tmp_path, capture_output=True, text=True, check=False, real_start=True,
        )  # fmt: skip
        assert done.returncode == 1
        return str(done.stderr)

    with ServeProcess(
        handlers, *tls_flags(pki["server"]), f"--tls-client-ca={pki['first-ca'].cert}"
    ) as service:
        assert refused().endswith("; the server speaks TLS. Expected: --tls, or --tls-ca FILE\n")
        assert refused("--tls").endswith("is not trusted. Expected: --tls-ca FILE, with its authority\n")
        nobody = refused(f"--tls-ca={pki['first-ca'].cert}")
        assert nobody.endswith("the server asks who calls. Expected: --tls-cert and --tls-key\n")
    with ServeProcess(handlers) as service:
        assert "the server speaks plaintext. Expected: none of the options --tls" in refused("--tls")


def test_call_and_try_speak_tls(handlers: Path, pki: dict[str, Certificate], tmp_path: Path) -> None:
    definition = {
        "name": "x", "api_id": "x", "org_id": "o", "use_keyless": True,
        "proxy": {"listen_path": "/", "target_url": "http://upstream.test/"},
        "custom_middleware": {"driver": "grpc", "pre": [{"name": "stamp"}]},
    }  # fmt: skip
    (tmp_path / "api.json").write_text(json.dumps(definition))
    client = [f"--tls-cert={pki['client'].cert}", f"--tls-key={pki['client'].key}"]
    ca = f"--tls-ca={pki['first-ca'].cert}"

    def run(*arguments: str, real_start: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coprocess", *arguments, "--address", service.address]
        return forked.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, real_start=real_start
        )

    flags = [*tls_flags(pki["server"]), f"--tls-client-ca={pki['first-ca'].cert}"]
    with ServeProcess(handlers, *flags) as service:
        called = run("call", "Pre", "stamp", ca, *client)
        tried = run("try", "GET", "/", ca, *client)
        plain = run("call", "Pre", "stamp")
        # gRPC is told to be silent before it is imported.
        unknown = run("call", "Pre", "stamp", "--tls", *client, real_start=True)

    assert "+ request.set_headers.X-Stamp: secure" in called.stdout, called.stderr
    assert "+ request.set_headers.X-Stamp: secure" in tried.stdout, tried.stderr
    for refused in (plain, unknown):
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"coprocess: {service.address}: UNAVAILABLE")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tls"], "Expected: --address"),
        (["--address=localhost:1", "--tls-cert={cert}"], "only one is given of --tls-cert and --tls-key"),
        (["--address=localhost:1", "--tls-ca={key}"], "cannot be used"),
        (["--address=localhost:1", "--tls-ca=gone.pem"], "gone.pem: cannot be read"),
        (["--address=localhost:1", "--tls-cert={cert}", "--tls-key={other}"], "cannot be used"),
    ],
)
def test_tls_of_a_client_that_cannot_be(
    flags: list[str], says: str, pki: dict[str, Certificate], tmp_path: Path
) -> None:
    values = {"cert": pki["client"].cert, "key": pki["client"].key, "other": pki["stranger"].key}
    given = [flag.format(**values) for flag in flags]
    command = [sys.executable, "-m", "coprocess", "call", "Pre", "x", *given]

    done = forked.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
