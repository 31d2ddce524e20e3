"""gRPC's interop clients, asked case by case: each is a process that ends with 0 where it is content."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from coprocess.transport.tls import TlsFiles
from tests.judges import interop_service
from tests.judges.verdict import Verdict
from tests.test_tls import make_ca, make_certificate

#: Without those that want Google's own credentials, or reports of load.
GRPC_GO_CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "pick_first_unary",
    "rpc_soak",
    "channel_soak",
)
#: A reply of the engine's unary kind carries no metadata.
_ONLY_OF_STREAMS = frozenset(("custom_metadata",))
#: A case that takes longer hangs.
_LONGEST_CASE_S = 60.0
_PATIENT = (
    "--soak_overall_timeout_seconds=50",
    "--soak_per_iteration_max_acceptable_latency_ms=30000",
)


class Served(NamedTuple):
    """One way in which the service is served."""

    name: str
    port: int
    only_streams: bool
    ca: Path | None


@contextmanager
def served_each_way(folder: Path) -> Iterator[list[Served]]:
    """In plaintext and with TLS, with methods of each kind and with streams only. Needs openssl."""
    ca = make_ca(folder, "interop-ca")
    certificate = make_certificate(folder, "interop-server", ca)
    tls = TlsFiles(certificate.cert, certificate.key)
    with ExitStack() as services:
        yield [
            Served(
                f"{'TLS' if files else 'plaintext'}, {'only streams' if only_streams else 'each kind'}",
                services.enter_context(interop_service.serving(only_streams=only_streams, tls=files)),
                only_streams,
                ca.cert if files else None,
            )
            for files in (None, tls)
            for only_streams in (False, True)
        ]


def grpc_go(client: Path, served: Sequence[Served], within_s: float) -> Verdict:
    """grpc-go's client. Raises TimeoutExpired where the time is over, and all was well by then."""
    until_s = time.monotonic() + within_s
    passed = 0
    complaints: list[str] = []
    for service in served:
        flags = ["--server_host=127.0.0.1", f"--server_port={service.port}", *_PATIENT]
        if service.ca is not None:
            flags += ["--use_tls", "--use_test_ca", f"--ca_file={service.ca}"]
        for case in GRPC_GO_CASES:
            if case in _ONLY_OF_STREAMS and not service.only_streams:
                continue
            left_s = until_s - time.monotonic()
            if left_s <= 0.0:
                if complaints:
                    return _verdict(passed, complaints)
                raise subprocess.TimeoutExpired(str(client), within_s)
            complaint = complaint_of([str(client), f"--test_case={case}", *flags], left_s)
            if complaint is None:
                passed += 1
            else:
                complaints.append(f"{case} ({service.name}): {complaint}")
    return _verdict(passed, complaints)


def complaint_of(command: list[str], left_s: float) -> str | None:
    """What a client says that is not content; None: it is. Raises TimeoutExpired after `left_s`."""
    try:
        ended = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=min(left_s, _LONGEST_CASE_S),
        )
    except subprocess.TimeoutExpired:
        if left_s < _LONGEST_CASE_S:
            raise
        return f"no end within {_LONGEST_CASE_S:g} s"
    return None if ended.returncode == 0 else ended.stdout.strip() or f"exit status {ended.returncode}"


def _verdict(passed: int, complaints: list[str]) -> Verdict:
    return Verdict(passed, len(complaints), "\n".join(complaints))
