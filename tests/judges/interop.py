"""Clients of gRPC's interop tests, asked case by case: a process that ends with 0 where it is content."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from coprocess.transport.tls import TlsFiles
from tests.judges import interop_service
from tests.judges.verdict import Verdict
from tests.test_tls import make_ca, make_certificate

#: A case that takes longer hangs.
_LONGEST_CASE_S = 60.0
_TOLD_CHARACTERS = 2000


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


class Client(NamedTuple):
    """One that is a program: how it is asked for a case of a service."""

    cases: tuple[str, ...]
    #: Those of them that want metadata of the service: a reply of the engine's unary kind carries none.
    cases_of_streams: frozenset[str]
    arguments: Callable[[str, Served], list[str]]


def _grpc_go_arguments(case: str, service: Served) -> list[str]:
    flags = ["--server_host=127.0.0.1", f"--server_port={service.port}"]
    # Else a machine with much to do would be at fault.
    flags += ["--soak_overall_timeout_seconds=50", "--soak_per_iteration_max_acceptable_latency_ms=30000"]
    if service.ca is not None:
        flags += ["--use_tls", "--use_test_ca", f"--ca_file={service.ca}"]
    return [f"--test_case={case}", *flags]


def _tonic_arguments(case: str, service: Served) -> list[str]:
    scheme, ca = ("http", []) if service.ca is None else ("https", [str(service.ca)])
    return [case, f"{scheme}://127.0.0.1:{service.port}", *ca]


#: Without cases that want Google's own credentials, or reports of load. It has none with compression.
GRPC_GO = Client(
    (
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
    ),
    frozenset(("custom_metadata",)),
    _grpc_go_arguments,
)
_TONIC_CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "special_status_message",
    "unimplemented_method",
    "cancel_after_first_response",
    "deadline_within_stream",
    "many_at_once",
)
TONIC = Client(
    (*_TONIC_CASES, *(f"{case}+gzip" for case in _TONIC_CASES)),
    frozenset(("custom_metadata", "custom_metadata+gzip")),
    _tonic_arguments,
)


def ask(client: Client, program: Path, served: Sequence[Served], within_s: float) -> Verdict:
    """All cases, of each service. Raises TimeoutExpired where the time is over, and all was well by then."""
    until_s = time.monotonic() + within_s
    passed = 0
    complaints: list[str] = []
    for service in served:
        for case in client.cases:
            if case in client.cases_of_streams and not service.only_streams:
                continue
            # Also where the time is over: it ends at once, then.
            left_s = max(0.001, until_s - time.monotonic())
            try:
                complaint = complaint_of([str(program), *client.arguments(case, service)], left_s)
            except subprocess.TimeoutExpired:
                if not complaints:
                    raise
                return _verdict(passed, complaints)
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
    if ended.returncode == 0:
        return None
    return ended.stdout.strip()[:_TOLD_CHARACTERS] or f"exit status {ended.returncode}"


def _verdict(passed: int, complaints: list[str]) -> Verdict:
    return Verdict(passed, len(complaints), "\n".join(complaints))
