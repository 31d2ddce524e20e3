"""Write the table of docs/reliability.md from `docs/reliability.json`. The text around it is kept.

python -m tests.chaos.report
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.chaos.load import Figures

DOCS = Path(__file__).parents[2] / "docs"
PAGE, FIGURES = DOCS / "reliability.md", DOCS / "reliability.json"


def _calls(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def _good(trial: Figures) -> str:
    return f"{trial['good_calls']:,} good calls, {trial['good_failed']} failed"


def _hostile(trial: Figures) -> tuple[str, str]:
    quarters = ", ".join(str(size) for size in trial["rss_mib_by_quarter"])
    return (
        f"{trial['hostile_calls']:,} hostile calls, {trial['bad_connections']} bad connections",
        f"{_calls(trial['ends'])}; {_good(trial)}; MiB by quarter: {quarters}",
    )


def _floods(trial: Figures) -> tuple[str, str]:
    floods = trial["floods"].values()
    ended = sum(figure["ended"] for figure in floods)
    slowest_ms = max(figure["good_p99_ms"] for figure in floods)
    return (
        f"{len(trial['floods'])} kinds of floods, one connection each",
        f"{ended} ended by the service; {_good(trial)}, p99 {slowest_ms} ms beside the worst, "
        f"{trial['p99_before_ms']} ms before; {trial['rss_mib']} MiB",
    )


def _reloads(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['reloads']} reloads, {trial['broken']} broken",
        f"{trial['calls']:,} calls, {trial['failed']} failed, {trial['old_code_after_a_swap']} on old code",
    )


def _resource_reloads(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['reloads']} reloads, {trial['rollbacks']} of them rollbacks",
        f"{trial['calls']:,} calls; opened, and closed as often: {_calls(trial['opened_and_closed'])}",
    )


def _stops(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['stops']} stops",
        f"{trial['calls_begun_and_answered']:,} calls begun and answered, {trial['lost']} lost; refused: "
        f"{_calls(trial['refused'])}; slowest stop {trial['slowest_stop_s']} s",
    )


def _misbehaving(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['kinds']} kinds, {trial['calls_of_each']} calls of each",
        f"each ended as it must; {_good(trial)}",
    )


def _overload(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['offered']:,} calls, many more at once than the hooks take",
        f"{_calls(trial['ends'])}, the slowest refusal after {trial['slowest_refusal_s']} s; {_good(trial)}",
    )


def _blocked_loop(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['blocked']} times blocked for 11 s, with ten calls behind; limits of 0.5 s",
        f"{_calls(trial['ends'])}, all answered within {trial['slowest_answer_s']} s; another loop after "
        f"{trial['slowest_recovery_s']} s; stopped while blocked in {trial['stop_s']} s; {_good(trial)}",
    )


def _unread_log(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['rounds']} rounds of handlers that print, fail and overrun, standard error unread",
        f"{_calls(trial['ends'])}, the slowest after {trial['slowest_answer_s']} s; {_good(trial)}",
    )


def _connections(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['connections']:,} connections",
        f"p99 {trial['p99_before_ms']} ms before, {trial['p99_beside_ms']} ms beside them; {_good(trial)}",
    )


def _admin_clients(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['pages']} pages beside {trial['connections']:,} slow clients",
        f"all given, the slowest after {trial['slowest_page_ms']} ms",
    )


def _redis(trial: Figures) -> tuple[str, str]:
    without = trial["without_storage"]
    return (
        f"{trial['kills']} kills",
        f"without storage {without['calls']:,} calls, {without['failed']} failed; with it "
        f"{_calls(trial['with_storage'])}, the slowest after {trial['slowest_failure_s']} s; last failure "
        f"{trial['slowest_recovery_s']} s after Redis ran again",
    )


def _full_disk(trial: Figures) -> tuple[str, str]:
    return (
        "no space for the embedded store, then space again",
        f"{_calls(trial['ends'])}; stores again after {trial['recovery_s']} s; {_good(trial)}",
    )


def _mid_write(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['kills']} kills of {trial['killed']}",
        f"{trial['acknowledged']:,} keys acknowledged, {trial['lost']} lost; slowest start "
        f"{trial['slowest_start_s']} s",
    )


def _mixed(trial: Figures) -> tuple[str, str]:
    first, last = trial["rss_mib_first_and_last_third"]
    threads, descriptors = trial["threads_most_and_after"], trial["descriptors_most_and_after"]
    return (
        f"{trial['seconds'] / 60:.0f} minutes, at most {trial['most_calls_per_s']:,.0f} calls/s",
        f"{_good(trial)}; {trial['reloads']} reloads; RSS {first} to {last} MiB "
        f"({trial['rss_drift_percent']:+.1f} %); threads {threads[0]}, after it {threads[1]}; "
        f"descriptors {descriptors[0]}, after it {descriptors[1]}",
    )


def _worker(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['kills']} kills",
        f"{trial['answered']:,} calls answered; failed with their worker: "
        f"{_calls(trial['failed_with_their_worker'])}; slowest replacement "
        f"{trial['slowest_replacement_s']} s",
    )


def _crash_loop(trial: Figures) -> tuple[str, str]:
    return (
        f"one worker that keeps ending, for {trial['looped_s']:g} s; then both",
        f"{trial['answered']:,} calls answered, {trial['failed_with_their_worker']} failed with their "
        f"worker; {trial['starts_of_one']} starts of the one; then the service ended with the reason, after "
        f"{trial['starts']} starts and {trial['ended_after_s']} s",
    )


def _hung_worker(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['hangs']} hangs, `worker_silence_s` {trial['silence_s']:g}; all stopped for "
        f"{trial['pause_s']:g} s",
        f"{trial['answered']:,} calls answered; failed with their worker: "
        f"{_calls(trial['failed_with_their_worker'])}; slowest replacement "
        f"{trial['slowest_replacement_s']} s, slowest admin page {trial['slowest_page_s']} s",
    )


def _kong_kills(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['kills']} kills of the plugin server, 8 connections",
        f"{trial['broken']:,} connections broken; events end {trial['slowest_recovery_s']} s after, at most; "
        f"{_good(trial)}",
    )


def _kong_connections(trial: Figures) -> tuple[str, str]:
    before, beside, after = trial["threads_before_beside_after"]
    return (
        f"{trial['connections']:,} connections: idle, with half a frame, in an event whose step never comes",
        f"threads before, beside and after: {before}, {beside}, {after}; {_good(trial)}",
    )


def _kong_hostile(trial: Figures) -> tuple[str, str]:
    return f"{trial['frames']:,} frames", f"{_calls(trial['ends'])}; {_good(trial)}; {trial['rss_mib']} MiB"


def _kong_memory(trial: Figures) -> tuple[str, str]:
    found = trial["rss_mib_half_and_whole"].items()
    return (
        _calls(trial["counts"]),
        "; ".join(
            f"{name}: {half} MiB after half of them, {whole} after all" for name, (half, whole) in found
        ),
    )


def _kong_mixed(trial: Figures) -> tuple[str, str]:
    quarters = ", ".join(str(size) for size in trial["rss_mib_by_quarter"])
    return (
        f"{trial['seconds']:g} s of good events, exceptions, orphans, instances and hostile frames",
        f"{_calls(trial['done'])}; {_good(trial)}; MiB by quarter: {quarters}",
    )


def _envoy_kills(trial: Figures) -> tuple[str, str]:
    real = f"; {_through_envoy(trial)}, 0 by the guard" if "through_envoy" in trial else ""
    return (
        f"{trial['kills']} kills of the service, 4 connections, and the real Envoy",
        f"failed with it, or while it was away: {_calls(trial['failed_with_it'])}; good streams end "
        f"{trial['slowest_recovery_s']} s after, at most; {_good(trial)}{real}",
    )


def _envoy_restarts(trial: Figures) -> tuple[str, str]:
    return (
        f"{trial['restarts']} restarts, in turn, of two services behind the real Envoy",
        f"{trial['good_calls']:,} requests through Envoy, {trial['good_failed']} failed",
    )


def _through_envoy(trial: Figures) -> str:
    return f"{trial['through_envoy']:,} requests through Envoy, {trial['closed_by_envoy']:,} refused there"


def _envoy_clients(trial: Figures) -> tuple[str, str]:
    before, beside, after = trial["threads_before_beside_after"]
    first, last = trial["descriptors_before_and_after"]
    return (
        f"{trial['connections']:,} connections of 8 kinds",
        f"threads before, beside and after: {before}, {beside}, {after}; descriptors before and after: "
        f"{first}, {last}; {_good(trial)}",
    )


def _envoy_streams(trial: Figures) -> tuple[str, str]:
    threads = ", ".join(map(str, trial["threads_before_beside_after"]))
    sizes = ", ".join(map(str, trial["rss_mib_before_beside_beside_after"]))
    return (
        f"{trial['streams']:,} streams open at one time, twice",
        f"{trial['kib_a_stream']} KiB a stream; threads before, beside and after: {threads}; MiB before, "
        f"beside the first, beside the second, after: {sizes}; {_good(trial)}",
    )


def _envoy_hostile(trial: Figures) -> tuple[str, str]:
    quarters = ", ".join(map(str, trial["rss_mib_by_quarter"]))
    return (
        f"{trial['hostile_streams']:,} streams, and a Check for each tenth",
        f"{_calls(trial['ends'])}; {_good(trial)}; MiB by quarter: {quarters}",
    )


def _envoy_mixed(trial: Figures) -> tuple[str, str]:
    first, last = trial["rss_mib_first_and_last_third"]
    real = f"; {_through_envoy(trial)}" if "through_envoy" in trial else ""
    most, after = trial["threads_most_and_after"]
    return (
        f"{trial['seconds']:g} s of good streams, bodies, failures, hostile messages and leaving clients",
        f"{_calls(trial['done'])}; {_good(trial)}{real}; RSS {first} to {last} MiB "
        f"({trial['rss_drift_percent']:+.1f} %); threads {most}, after it {after}",
    )


_DESCRIBED: dict[str, Callable[[Figures], tuple[str, str]]] = {
    "hostile calls": _hostile,
    "floods of one connection": _floods,
    "reload under load": _reloads,
    "resources and reload": _resource_reloads,
    "SIGTERM under load": _stops,
    "misbehaving handlers": _misbehaving,
    "overload": _overload,
    "blocked event loop": _blocked_loop,
    "unread log": _unread_log,
    "1,000 connections": _connections,
    "slow admin clients": _admin_clients,
    "kill -9 of Redis": _redis,
    "full disk": _full_disk,
    "kill -9 in mid write": _mid_write,
    "kill -9 of both": _mid_write,
    "mixed load": _mixed,
    "kill -9 of a worker": _worker,
    "hung worker": _hung_worker,
    "crash loop of workers": _crash_loop,
    "Envoy: kill -9 under load": _envoy_kills,
    "Envoy: restarts under load": _envoy_restarts,
    "Envoy: slow and leaving clients": _envoy_clients,
    "Envoy: 10,000 streams": _envoy_streams,
    "Envoy: hostile messages": _envoy_hostile,
    "Envoy: mixed load": _envoy_mixed,
    "Kong: exceptions": _misbehaving,
    "Kong: kill -9 under load": _kong_kills,
    "Kong: 1,000 connections": _kong_connections,
    "Kong: hostile frames": _kong_hostile,
    "Kong: memory": _kong_memory,
    "Kong: mixed load": _kong_mixed,
}


def _kind(trial: Figures) -> str:
    name: str = trial["trial"]
    return name.removesuffix(", 2 workers")


def row(trial: Figures) -> str:
    """The trial as a line of the table."""
    if trial["held"]:
        done, came = _DESCRIBED[_kind(trial)](trial)
    else:
        done, came = "", f"**did not hold**: {trial.get('why', 'see reliability.json')}"
    return f"| {trial['trial']} | {trial['engine']} | {done} | {came} | {trial['date']} |"


def table(figures: Figures) -> str:
    about = figures["machine"]
    head = f"{about['cpu']}, {about['cores']} cores shared by service and load; {about['system']}; Python "
    lines = ["| trial | engine | what was done | what came out | date |", "|---|---|---|---|---|"]
    trials = sorted(figures["trials"], key=lambda trial: list(_DESCRIBED).index(_kind(trial)))
    return "\n".join([head + about["python"], "", *lines, *map(row, trials)])


def renewed(page: str, figures: Figures) -> str:
    """`page`, with the table of `figures` between its markers."""
    text = f"<!-- trials -->\n{table(figures)}\n<!-- /trials -->"
    return re.sub("<!-- trials -->.*<!-- /trials -->", lambda _: text, page, flags=re.DOTALL)


def renew_page() -> None:
    PAGE.write_text(renewed(PAGE.read_text(), json.loads(FIGURES.read_text())))


if __name__ == "__main__":
    renew_page()
