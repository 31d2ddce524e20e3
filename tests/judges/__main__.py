"""Build the judges where they are not, ask them, and tell: exit status 1 where one is not content."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.judges import judges


def main() -> int:
    if not judges.has_go():
        print("judges: not asked, as Go is not installed")
        return 0
    try:
        judges.build()
    except subprocess.CalledProcessError:
        print("judges: not asked, as Go could not build them")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, ask in (("h2spec", judges.h2spec), ("connectconformance", judges.conformance)):
            verdict = ask(Path(folder))
            failed += verdict.failed
            print(f"{name}: {verdict.passed} passed, {verdict.failed} failed")
            if verdict.failed:
                print(verdict.text)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
