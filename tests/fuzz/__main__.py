"""A campaign of atheris, which follows coverage, on one target: `make fuzz-hour`.

It exits with 0 where no fault was found.

What it has found to be of use stays in the corpus, from which the next campaign goes on. An input that fails
is written beside it, and shown by `python -m tests.fuzz TARGET --input FILE` without atheris.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import sys
from pathlib import Path

#: The module of a target's name has `play`; the packages are those whose branches count.
TARGETS = {
    "http2": ("coprocess.transport.http2", "hpack"),
    "kong": ("coprocess.gateways.kong.wire",),
}
MAX_INPUT_BYTES = 1500
_FIRST_INPUTS = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), metavar="FOLDER")
    parser.add_argument("--input", type=Path, metavar="FILE", help="play this one, and no campaign")
    options = parser.parse_args()
    if options.input is not None:
        importlib.import_module(f"tests.fuzz.{options.target}").play(options.input.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: not run, as atheris is not installed: it has wheels for Linux on x86-64")
        return 0
    corpus: Path = options.corpus / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    _campaign(options.target, corpus, round(options.minutes * 60))
    return 0


def _campaign(target: str, corpus: Path, seconds: int) -> None:
    """Ends this process, as libFuzzer does."""
    import atheris

    with atheris.instrument_imports(include=list(TARGETS[target])):
        module = importlib.import_module(f"tests.fuzz.{target}")
    if not any(corpus.iterdir()):
        chance = random.Random(0)  # noqa: S311 - no secret
        for number in range(_FIRST_INPUTS):
            (corpus / f"first-{number}").write_bytes(chance.randbytes(chance.randrange(400)))
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={seconds}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-artifact_prefix={corpus.parent}/{target}-",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ],
        module.play,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
