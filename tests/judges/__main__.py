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
    if not judges.has_go():
        print("judges: not asked, as Go is not installed")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, judge, ask in (
            ("h2spec", judges.H2SPEC, judges.h2spec),
            ("connectconformance", judges.CONFORMANCE, judges.conformance),
        ):
            try:
                judges.build(judge, max(1.0, until_s - time.monotonic()))
                verdict = ask(Path(folder), max(1.0, until_s - time.monotonic()))
            except subprocess.CalledProcessError as error:
                print(f"{name}: not asked, as Go could not build it\n{error.stdout or ''}")
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
