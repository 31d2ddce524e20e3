from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.judges import interop, interop_service, judges
from tests.judges.interop import GRPC_GO, TONIC, Served

_why_no_grpc_go = judges.why_missing(judges.GRPC_GO)
_why_no_tonic = judges.why_missing(judges.TONIC)
needs_grpc_go = pytest.mark.skipif(bool(_why_no_grpc_go), reason=_why_no_grpc_go)


@needs_grpc_go
def test_grpc_go_is_content_with_each_kind_of_call(tmp_path: Path) -> None:
    verdict = judges.grpc_go(tmp_path)
    assert verdict.failed == 0, verdict.text
    assert verdict.passed == 4 * len(GRPC_GO.cases) - 2


@pytest.mark.skipif(bool(_why_no_tonic), reason=_why_no_tonic)
def test_tonic_is_content_with_each_kind_of_call_also_with_gzip(tmp_path: Path) -> None:
    verdict = judges.tonic(tmp_path)
    assert verdict.failed == 0, verdict.text
    assert verdict.passed == 4 * len(TONIC.cases) - 4


@needs_grpc_go
def test_grpc_go_is_not_content_where_metadata_does_not_come_back() -> None:
    with interop_service.serving(only_streams=False) as port:
        served = [Served("no metadata", port, only_streams=True, ca=None)]
        verdict = interop.ask(GRPC_GO, judges.GRPC_GO.program, served, within_s=300.0)
    assert (verdict.passed, verdict.failed) == (len(GRPC_GO.cases) - 1, 1)
    assert verdict.text.startswith("custom_metadata (no metadata): ")


def _client(folder: Path, script: str) -> Path:
    made = folder / "client"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    return made


_NOBODY = [Served("plaintext", 1, only_streams=True, ca=None)]


def test_what_a_client_complains_of_is_told(tmp_path: Path) -> None:
    client = _client(tmp_path, 'case "$1" in *=large_unary) echo "4 bytes, want 5"; exit 1;; esac')
    verdict = interop.ask(GRPC_GO, client, _NOBODY, within_s=300.0)
    assert verdict == (len(GRPC_GO.cases) - 1, 1, "large_unary (plaintext): 4 bytes, want 5")


def test_a_client_that_says_nothing_of_its_failure_is_told_of(tmp_path: Path) -> None:
    client = _client(tmp_path, "exit 3")
    assert interop.complaint_of([str(client)], left_s=300.0) == "exit status 3"


def test_a_client_that_does_not_end_is_not_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interop, "_LONGEST_CASE_S", 0.1)
    complaint = interop.complaint_of([str(_client(tmp_path, "exec sleep 600"))], left_s=300.0)
    assert complaint == "no end within 0.1 s"


def test_a_client_whose_time_is_over_has_not_failed(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        interop.complaint_of([str(_client(tmp_path, "exec sleep 600"))], left_s=0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        interop.ask(GRPC_GO, _client(tmp_path, "exec sleep 600"), _NOBODY, within_s=0.0)
