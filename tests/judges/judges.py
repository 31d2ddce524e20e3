"""The judges: how they are built, run, and what they say.

Go builds them, at the versions that are named here, into `.coprocess/judges`; cargo the one that is by tonic.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.judges import interop
from tests.judges.verdict import Verdict
from tests.serve_process import ServeProcess

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".coprocess" / "judges"
_LONGEST_BUILD_S = 900.0
_LONGEST_RUN_S = 600.0


class Judge(ABC):
    """One that is a program, which is built where it is not there."""

    def __init__(self, name: str, *needs: str) -> None:
        self.name = name
        #: The programs that it cannot do without.
        self.needs = needs

    @property
    @abstractmethod
    def program(self) -> Path: ...

    @abstractmethod
    def build(self, within_s: float = _LONGEST_BUILD_S) -> None:
        """Raises CalledProcessError and TimeoutExpired."""


class GoJudge(Judge):
    """One of a public module."""

    def __init__(self, name: str, package: str, version: str, *needs: str) -> None:
        super().__init__(name, "go", *needs)
        self.package, self.version = package, version

    @property
    def program(self) -> Path:
        return FOLDER / self.name

    def build(self, within_s: float = _LONGEST_BUILD_S) -> None:
        if self.program.exists():
            return
        FOLDER.mkdir(parents=True, exist_ok=True)
        # Go names a program by the end of its package: "client", say.
        with TemporaryDirectory(dir=FOLDER) as made:
            command = ["go", "install", f"{self.package}@{self.version}"]
            _run(command, within_s, {**os.environ, "GOBIN": made}, check=True)
            (Path(made) / self.package.rpartition("/")[2]).rename(self.program)


class CargoJudge(Judge):
    """One whose source is here; cargo knows itself what is to be built again."""

    def __init__(self, name: str, source: Path, *needs: str) -> None:
        super().__init__(name, "cargo", *needs)
        self._source = source

    @property
    def program(self) -> Path:
        return FOLDER / "cargo" / "debug" / self.name

    def build(self, within_s: float = _LONGEST_BUILD_S) -> None:
        # In a copy: cargo writes a lock beside it, which names where it got the parts.
        copy = FOLDER / self.name
        shutil.copytree(self._source, copy, dirs_exist_ok=True)
        command = ["cargo", "build", "--quiet", f"--manifest-path={copy / 'Cargo.toml'}"]
        _run(command, within_s, {**os.environ, "CARGO_TARGET_DIR": str(FOLDER / "cargo")}, check=True)


H2SPEC = GoJudge("h2spec", "github.com/summerwind/h2spec/cmd/h2spec", "v2.2.1+incompatible")
CONFORMANCE = GoJudge("connectconformance", "connectrpc.com/conformance/cmd/connectconformance", "v1.0.7")
GRPC_GO = GoJudge("grpc-go-interop", "google.golang.org/grpc/interop/client", "v1.85.0", "openssl")
TONIC = CargoJudge("tonic-interop", Path(__file__).parent / "tonic", "openssl")


def why_missing(judge: Judge) -> str:
    """Why `judge` cannot be asked; empty: it can."""
    if missing := not_installed(judge):
        return f"{missing} is not installed"
    return "" if judge.program.exists() else f"{judge.name} is not built: make judges builds it"


def not_installed(judge: Judge) -> str:
    """The first program that `judge` needs and that is not there; empty: all are."""
    return next((program for program in judge.needs if shutil.which(program) is None), "")


def h2spec(tmp_path: Path, within_s: float = _LONGEST_RUN_S) -> Verdict:
    """Each rule of RFC 9113 and RFC 7541 that it knows, strictly, against `coprocess serve`."""
    (tmp_path / "handlers").mkdir(exist_ok=True)
    with ServeProcess(tmp_path / "handlers", "--engine=http2") as service:
        host, _, port = service.address.rpartition(":")
        command = [str(H2SPEC.program), "--strict", "--timeout", "5", "-h", host, "-p", port]
        said = _run(command, within_s)
    found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", said)
    if found is None:
        return Verdict(0, 1, said)
    return Verdict(int(found[2]), int(found[3]) + int(found[4]), _of_failures(said))


def _of_failures(said: str) -> str:
    _, _, failures = said.partition("Failures:")
    return failures.strip()


def conformance(tmp_path: Path, within_s: float = _LONGEST_RUN_S) -> Verdict:
    """gRPC: unary calls and all streams, in plaintext, with TLS and with client certificates."""
    protos = _protos(tmp_path)
    programs = ROOT / "tests" / "programs"
    command = [str(CONFORMANCE.program), "--mode", "server"]
    command += ["--conf", str(programs / "conformance.yaml"), "--parallel", "2", "--"]
    command += [sys.executable, str(programs / "conformance_server.py"), str(protos)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = _run(command, within_s, environment)
    found = re.search(r"(\d+) passed, (\d+) failed", said)
    if found is None:
        return Verdict(0, 1, said[-4000:])
    failed = [line for line in said.splitlines() if line.startswith("FAILED")]
    return Verdict(int(found[1]), int(found[2]), "\n".join(failed))


def grpc_go(tmp_path: Path, within_s: float = _LONGEST_RUN_S) -> Verdict:
    """grpc-go's interop client: each of its cases, in plaintext and with TLS."""
    with interop.served_each_way(tmp_path) as served:
        return interop.ask(interop.GRPC_GO, GRPC_GO.program, served, within_s)


def tonic(tmp_path: Path, within_s: float = _LONGEST_RUN_S) -> Verdict:
    """A client by tonic: the same kinds of calls, also with gzip."""
    with interop.served_each_way(tmp_path) as served:
        return interop.ask(interop.TONIC, TONIC.program, served, within_s)


def _protos(tmp_path: Path) -> Path:
    """The Python modules of the conformance service's messages, from its own source."""
    module = CONFORMANCE.package.removesuffix("/cmd/connectconformance")
    cache = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True)
    source = Path(cache.stdout.strip()) / f"{module}@{CONFORMANCE.version}" / "proto"
    made = tmp_path / "protos"
    made.mkdir(exist_ok=True)
    names = [f"connectrpc/conformance/v1/{name}.proto" for name in ("config", "service", "server_compat")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", f"--python_out={made}", *names]
    subprocess.run(command, check=True, timeout=_LONGEST_RUN_S)
    return made


def _run(
    command: list[str], within_s: float, environment: dict[str, str] | None = None, *, check: bool = False
) -> str:
    """What `command` said. Raises TimeoutExpired, and has ended all that it started by then."""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return said
