"""Build the judges where they are not, ask them, and tell: exit status 1 where one is not content.

With `--within SECONDS`, what is not built, or has not said all, by then is told of, and is no failure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.judges import judges


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.judges", description=__doc__)
    parser.add_argument("--within", type=float, default=1500.0, metavar="SECONDS")
    until_s = time.monotonic() + parser.parse_args().within
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for judge, ask in (
            (judges.H2SPEC, judges.h2spec),
            (judges.CONFORMANCE, judges.conformance),
            (judges.GRPC_GO, judges.grpc_go),
            (judges.TONIC, judges.tonic),
        ):
            name = judge.name
            if missing := judges.not_installed(judge):
                print(f"{name}: not asked, as {missing} is not installed")
                continue
            try:
                judge.build(max(1.0, until_s - time.monotonic()))
                verdict = ask(Path(folder), max(1.0, until_s - time.monotonic()))
            except subprocess.CalledProcessError as error:
                print(f"{name}: not asked, as it could not be built\n{error.stdout or ''}")
                continue
            except subprocess.TimeoutExpired:
                print(f"{name}: left out, as the time was over")
                continue
            failed += verdict.failed
            print(f"{name}: {verdict.passed} passed, {verdict.failed} failed", flush=True)
            if verdict.failed:
                print(verdict.text)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
