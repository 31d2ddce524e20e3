"""Compile the protos below this folder into what `coprocess.gateways.envoy.wire` loads.

    python proto/envoy/compile.py [FOLDER]

writes a descriptor set and type stubs into FOLDER (default: coprocess/gateways/envoy/wire). `make proto` runs
it; a test runs it into an empty folder and compares.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
WIRE = PROTO.parent.parent / "coprocess" / "gateways" / "envoy" / "wire"
# protobuf's own files, which ours import.
INCLUDED = Path(protoc.__file__).parent / "_proto"


def compile_protos(target: Path) -> None:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={INCLUDED}",
            "--include_imports",
            f"--descriptor_set_out={target / 'envoy.descriptorset'}",
            f"--pyi_out={scratch}",
            *sources,
        ]
        if status := protoc.main(arguments):
            sys.exit(status)
        for stub in sorted(Path(scratch).rglob("*.pyi")):
            (target / stub.name).write_text(_side_by_side(stub.read_text()))


def _side_by_side(stub: str) -> str:
    # The stubs lie in one folder, as no two files have one name.
    elsewhere = r"^from (?:envoy\.\S+|google\.rpc) import (\w+_pb2) as"
    return re.sub(elsewhere, r"from . import \1 as", stub, flags=re.M)


if __name__ == "__main__":
    compile_protos(Path(sys.argv[1]) if len(sys.argv) > 1 else WIRE)
