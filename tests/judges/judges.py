"""h2spec and connectconformance: how they are built, run, and what they say.

Both are built by Go, at the versions that are named here, into `.coprocess/judges`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.serve_process import ServeProcess

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".coprocess" / "judges"
H2SPEC = ("github.com/summerwind/h2spec/cmd/h2spec", "v2.2.1+incompatible")
CONFORMANCE = ("connectrpc.com/conformance/cmd/connectconformance", "v1.0.7")
_LONGEST_BUILD_S = 900
_LONGEST_RUN_S = 600


class Verdict(NamedTuple):
    passed: int
    failed: int
    #: What the judge said of those that failed.
    text: str


def build() -> None:
    """Build what is not there. Raises CalledProcessError."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(FOLDER)}
    for package, version in (H2SPEC, CONFORMANCE):
        if not (FOLDER / package.rpartition("/")[2]).exists():
            command = ["go", "install", f"{package}@{version}"]
            subprocess.run(command, env=environment, check=True, timeout=_LONGEST_BUILD_S)


def why_missing(judge: str) -> str:
    """Why `judge` cannot be asked; empty: it can."""
    return "" if (FOLDER / judge).exists() else f"{judge} is not built: make judges builds it, with Go"


def h2spec(tmp_path: Path) -> Verdict:
    """Each rule of RFC 9113 and RFC 7541 that it knows, strictly, against `coprocess serve`."""
    (tmp_path / "handlers").mkdir(exist_ok=True)
    with ServeProcess(tmp_path / "handlers", "--engine=http2") as service:
        host, _, port = service.address.rpartition(":")
        command = [str(FOLDER / "h2spec"), "--strict", "--timeout", "5", "-h", host, "-p", port]
        said = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_RUN_S).stdout
    found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", said)
    if found is None:
        return Verdict(0, 1, said)
    return Verdict(int(found[2]), int(found[3]) + int(found[4]), _of_failures(said))


def _of_failures(said: str) -> str:
    _, _, failures = said.partition("Failures:")
    return failures.strip()


def conformance(tmp_path: Path) -> Verdict:
    """gRPC: unary calls and all streams, in plaintext, with TLS and with client certificates."""
    protos = _protos(tmp_path)
    programs = ROOT / "tests" / "programs"
    command = [str(FOLDER / "connectconformance"), "--mode", "server"]
    command += ["--conf", str(programs / "conformance.yaml"), "--parallel", "2", "--"]
    command += [sys.executable, str(programs / "conformance_server.py"), str(protos)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_RUN_S, env=environment)
    said = run.stdout + run.stderr
    found = re.search(r"(\d+) passed, (\d+) failed", said)
    if found is None:
        return Verdict(0, 1, said[-4000:])
    failed = [line for line in said.splitlines() if line.startswith("FAILED")]
    return Verdict(int(found[1]), int(found[2]), "\n".join(failed))


def _protos(tmp_path: Path) -> Path:
    """The Python modules of the conformance service's messages, from its own source."""
    package, version = CONFORMANCE
    module = package.removesuffix("/cmd/connectconformance")
    cache = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True)
    source = Path(cache.stdout.strip()) / f"{module}@{version}" / "proto"
    made = tmp_path / "protos"
    made.mkdir(exist_ok=True)
    names = [f"connectrpc/conformance/v1/{name}.proto" for name in ("config", "service", "server_compat")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", f"--python_out={made}", *names]
    subprocess.run(command, check=True, timeout=_LONGEST_RUN_S)
    return made


def has_go() -> bool:
    return shutil.which("go") is not None
