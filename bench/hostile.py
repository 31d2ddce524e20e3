"""What attacks cost others: `hostile.py [NAME …] [--seconds 6] [FLAG …]`. Needs Go, for the load.

Further flags are those of `coprocess serve`.

Good calls come from a process of their own, on four connections, a few milliseconds apart; beside them one of
the attacks of `attacks.py` goes on, on a core with them; the service is on the other. Of each attack it
prints the good calls' p50 and p99 without it, just before, and beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attacks import attacks
from load import HANDLERS, Load, resident_mib, serve_command, serving
from run import LOAD_CORE, SERVER_CORE, build_gobench

_GOOD = ("-conns", "4", "-pause", "4ms")
_CALLS = 4
#: Until an attack is at its height.
_AHEAD_S = 1.0


def _attack(address: str, name: str, seconds: float) -> subprocess.Popen[str]:
    words = ["taskset", "-c", LOAD_CORE, "nice", "-n", "10", sys.executable]
    words += [str(Path(__file__).with_name("attacks.py")), address, name, str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _go_first(pid: int) -> None:
    """Have a session of processes go before what else runs here, where the system lets us."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-20")


def measure(load: Load, handlers: Path, name: str, seconds: float, rest: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        command = serve_command(handlers, *rest, data_dir=folder)
        with serving(command, SERVER_CORE) as (process, address):
            _go_first(process.pid)
            alone = load.run(address, _CALLS, seconds, None, True, *_GOOD)
            attacker = _attack(address, name, seconds + 2 * _AHEAD_S)
            beside = load.run(address, _CALLS, seconds, None, True, *_GOOD)
            said, _ = attacker.communicate(timeout=seconds + 30)
            return {
                "attack": name,
                **json.loads(said),
                "p50_us": [alone["p50_us"], beside["p50_us"]],
                "p99_us": [alone["p99_us"], beside["p99_us"]],
                "times": round(beside["p99_us"] / alone["p99_us"], 2),
                "calls": [alone["calls"], beside["calls"]],
                "rss_mib": round(resident_mib(process.pid)),
            }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(attacks()))
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--handlers", default="native", help="a folder of bench/handlers")
    args, rest = parser.parse_known_args()
    gobench = build_gobench()
    if gobench is None:
        print("The bench needs Go, for its load generator.", file=sys.stderr)
        return 1
    # It shares a core with the attack, and is to measure the service: so it goes first, where it may.
    first = ("chrt", "-f", "10")
    may_go_first = subprocess.run([*first, "true"], capture_output=True, check=False).returncode == 0
    load = Load(gobench, LOAD_CORE, first if may_go_first else ())
    _go_first(os.getpid())
    for name in args.names or attacks():
        print(json.dumps(measure(load, HANDLERS / args.handlers, name, args.seconds, rest)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
