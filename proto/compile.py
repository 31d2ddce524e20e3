"""Compile `proto/*.proto` into what `coprocess.gateways.tyk.wire` loads: a descriptor set and type stubs.

    python proto/compile.py [FOLDER]

writes into FOLDER (default: coprocess/gateways/tyk/wire). `make proto` runs it; a test runs it into an empty
folder and compares, so that the committed files cannot drift from their source.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
WIRE = PROTO.parent / "coprocess" / "gateways" / "tyk" / "wire"


def compile_protos(target: Path) -> None:
    sources = sorted(path.name for path in PROTO.glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            f"--proto_path={PROTO}",
            f"--descriptor_set_out={target / 'coprocess.descriptorset'}",
            f"--pyi_out={scratch}",
            *sources,
        ]
        if status := protoc.main(arguments):
            sys.exit(status)
        for stub in sorted(Path(scratch).glob("*.pyi")):
            (target / stub.name).write_text(_relative_imports(stub.read_text()))


def _relative_imports(stub: str) -> str:
    # protoc writes absolute imports between the files; ours live in a package.
    stub = re.sub(r"^import (coprocess_\w+_pb2) as", r"from . import \1 as", stub, flags=re.M)
    return re.sub(r"^from (coprocess_\w+_pb2) import", r"from .\1 import", stub, flags=re.M)


if __name__ == "__main__":
    compile_protos(Path(sys.argv[1]) if len(sys.argv) > 1 else WIRE)
