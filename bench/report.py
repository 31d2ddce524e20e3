"""Write the tables and the plot of docs/performance.md from the figures that `run.py` measured.

    report.py

The text around them is kept: only what lies between the markers `<!-- name -->` and `<!-- /name -->` is
replaced.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, FIGURES, PLOT = DOCS / "performance.md", DOCS / "performance.json", DOCS / "performance.svg"
KONG_PAGE, KONG_PLOT = DOCS / "kong.md", DOCS / "kong.svg"
ENVOY_PAGE, ENVOY_PLOT = DOCS / "envoy.md", DOCS / "envoy.svg"

Figures = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(figures: Figures) -> str:
    about = figures["machine"]
    cpu = f"{about['cpu'] or 'unknown CPU'}, {about['cores']} cores"
    return f"{about['date']}; {cpu}; {about['system']}; Python {about['python']}"


def servers_of(compared: Figures) -> dict[str, Figures]:
    return {name: figures for name, figures in compared.items() if name != "machine"}


def throughput(figures: Figures) -> str:
    servers = servers_of(figures)
    go = servers["go"]
    rows = [
        [
            name,
            f"{it['calls_per_s']:,.0f}",
            f"{it['calls_per_s'] / go['calls_per_s']:.2f}",
            f"{it['cpu_us_per_call']:.1f}",
            f"{it['cpu_us_per_call'] / go['cpu_us_per_call']:.2f}",
            f"{it['p50_us']:,.0f} / {it['p99_us']:,.0f}",
            f"{it['one_p50_us']:,.0f}",
            f"{it['one_p50_us'] / go['one_p50_us']:.2f}",
            f"{it['rss_mib']:.0f}",
        ]
        for name, it in servers.items()
    ]
    head = ["server", "calls/s", "× Go", "CPU µs/call", "× Go", "p50 / p99 µs, 32 in flight"]
    head += ["p50 µs, one at a time", "× Go", "RSS MiB"]
    return table(head, rows)


#: Each is of one run: what, section and figure, ours, theirs, target.
_RATIOS = (
    ("sync handler against Go: calls/s", "throughput", "calls_per_s", "http2", "go", "≥ 1.2"),
    ("sync handler against Go: CPU per call", "throughput", "cpu_us_per_call", "http2", "go", "≤ 0.75"),
    ("sync handler against Go: p50 one at a time", "throughput", "one_p50_us", "http2", "go", "≤ 0.9"),
    ("async handler against Go: calls/s", "throughput", "calls_per_s", "http2-async", "go", "≥ 1.3"),
    ("async handler against Go: CPU per call", "throughput", "cpu_us_per_call", "http2-async", "go", "≤ 0.7"),
    ("async handler against Go: p50 one at a time", "throughput", "one_p50_us", "http2-async", "go", "≤ 0.8"),
    ("compiled, sync: calls/s", "throughput", "calls_per_s", "compiled", "go", "≥ 1.2"),
    ("compiled, sync: CPU per call", "throughput", "cpu_us_per_call", "compiled", "go", "≤ 0.75"),
    ("compiled, sync: p50 one at a time", "throughput", "one_p50_us", "compiled", "go", "≤ 0.9"),
    ("compiled, async: calls/s", "throughput", "calls_per_s", "compiled-async", "go", "≥ 1.3"),
    ("compiled, async: CPU per call", "throughput", "cpu_us_per_call", "compiled-async", "go", "≤ 0.7"),
    ("compiled, async: p50 one at a time", "throughput", "one_p50_us", "compiled-async", "go", "≤ 0.8"),
    ("both with TLS: calls/s", "tls", "calls_per_s", "http2", "go", "≥ 1.0"),
    ("both with TLS: CPU per call", "tls", "cpu_us_per_call", "http2", "go", "≤ 1.0"),
    ("1 MiB body, CPU per call, against Go", "compared", "cpu_us_per_call", "http2", "go", "≤ 1.0"),
    (
        "quick handler, 2 workers behind the front, against 1 process, calls/s",
        *("workers", "calls_per_s", "native_workers_2", "native_workers_1", "≥ 1.0"),
    ),
    (
        "the same, each worker with an address of its own",
        *("workers", "calls_per_s", "native_workers_2_listen_own", "native_workers_1", "≥ 0.95"),
    ),
    (
        "5 ms of CPU, each worker with an address of its own",
        *("workers", "calls_per_s", "cpu_workers_2_listen_own", "cpu_5ms_workers_1", "≥ 1.8"),
    ),
    (
        "traces of a tenth, against none, calls/s",
        "traces",
        "calls_per_s",
        "traces of a tenth",
        "without",
        "≥ 0.85",
    ),
    ("traces of all", "traces", "calls_per_s", "traces of all", "without", "≥ 0.4"),
    (
        "calls/s, http2 engine against grpcio-sync",
        "throughput",
        "calls_per_s",
        "http2",
        "grpcio-sync",
        "≥ 2.6",
    ),
    (
        "calls/s, grpcio engine against grpcio-sync",
        "throughput",
        "calls_per_s",
        "grpcio",
        "grpcio-sync",
        "≥ 0.85",
    ),
    (
        "calls/s, embedded against native style",
        "throughput",
        "calls_per_s",
        "embedded-style",
        "http2",
        "≥ 0.9",
    ),
)


def ratios(figures: Figures) -> str:
    sections = {**figures, "compared": figures["large_body"]["compared"]}
    rows = [
        [what, f"{sections[section][ours][figure] / sections[section][theirs][figure]:.2f}", target]
        for what, section, figure, ours, theirs, target in _RATIOS
        if ours in sections[section]  # Not everybody has a compiler.
    ]
    return table(["ratio", "figure", "target"], rows)


def in_flight(figures: Figures) -> str:
    by_calls = servers_of(figures)
    names = list(next(iter(by_calls.values())))
    rows = [
        [calls, *(f"{servers[name]['calls_per_s']:,.0f} ({servers[name]['p99_us']:,.0f})" for name in names)]
        for calls, servers in by_calls.items()
    ]
    return table(["in flight", *(f"{name}: calls/s (p99 µs)" for name in names)], rows)


def waiting(figures: Figures) -> str:
    alone, fast = figures["blocking"]["alone"], figures["blocking"]["fast_beside_it"]
    rows = [
        ["sync handler that sleeps 50 ms, 64 in flight", f"{alone['calls_per_s']:,.0f} calls/s", "≥ 1,152"],
        ["a fast hook beside it, 4 in flight", f"p99 {fast['p99_us'] / 1000:.1f} ms", "< 25 ms"],
    ]
    what, rate = "async handler that sleeps 50 ms, 1,000 in flight", figures["asynchronous"]["calls_per_s"]
    rows.append([what, f"{rate:,.0f} calls/s", "≥ 8,000"])
    return table(["what", "figure", "target"], rows)


def computing(figures: Figures) -> str:
    rows = []
    for name, it in (("alone", figures["alone"]), ("beside the quick hook", figures["computing_beside_it"])):
        fair_s = 32 / it["calls_per_s"]
        rows.append(
            [
                f"sync handler of 5 ms of CPU, 32 in flight, {name}",
                f"{it['calls_per_s']:,.0f}",
                f"{it['p50_us'] / 1000:.1f}",
                f"{it['p99_us'] / 1000:.1f} = {it['p99_us'] / 1e6 / fair_s:.2f} × fair",
                "≤ 2 × fair",
            ]
        )
    quick = figures["quick_beside_it"]
    rows.append(
        [
            "a quick hook beside it, 4 in flight",
            f"{quick['calls_per_s']:,.0f}",
            f"{quick['p50_us'] / 1000:.1f}",
            f"{quick['p99_us'] / 1000:.1f}",
            "≤ 25 ms",
        ]
    )
    return table(["one process, not pinned", "calls/s", "p50 ms", "p99 ms", "target of p99"], rows)


def loops(figures: Figures) -> str:
    def median(name: str) -> float:
        return statistics.median(figures[name])

    rows = []
    for handlers, what in (
        ("asynchronous", "sleeps 50 ms, 1,000 in flight"),
        ("async_store", "sets and gets a key by store.aio, 32 in flight"),
    ):
        uvloop, asyncio = median(f"{handlers}_uvloop"), median(f"{handlers}_asyncio")
        rows.append([what, f"{uvloop:,.0f}", f"{asyncio:,.0f}", f"{uvloop / asyncio:.2f}"])
    return table(["async handler", "uvloop: calls/s", "asyncio's own loop: calls/s", "ratio"], rows)


def large_body(figures: Figures) -> str:
    sizes, compared = figures["bytes"], figures["compared"]
    rows = [
        ["echo of the whole Object", f"{sizes['echo']:,}", "1.00"],
        ["full reply", f"{sizes['full']:,}", f"{sizes['full'] / sizes['echo']:.2f}"],
        ["trimmed reply (default)", f"{sizes['trimmed']:,}", f"{sizes['trimmed'] / sizes['echo']:.2f}"],
    ]
    speed = [
        [name, f"{it['calls_per_s']:,.0f}", f"{it['cpu_us_per_call']:,.0f}"] for name, it in compared.items()
    ]
    return "\n\n".join(
        [
            table(["1 MiB text body", "bytes both ways", "× echo"], rows),
            table(["server, 8 in flight", "calls/s", "CPU µs/call"], speed),
        ]
    )


def rest(figures: Figures) -> str:
    get, in_handler = figures["store"]["get"], figures["store"]["set_and_get_in_handler"]
    memory, start = figures["memory"], figures["start"]["seconds"]
    growth = memory["after_mib"] / memory["start_mib"] - 1
    since_warm = round(memory["after_mib"] / memory["after_first_load_mib"] - 1, 3) + 0.0  # Not -0.0.
    return table(
        ["what", "figure", "target"],
        [
            [
                "`store.get` against bare redis-py",
                f"{get['store_us']:.1f} / {get['redis_us']:.1f} µs = {get['ratio']:.2f} ×",
                "≤ 1.3",
            ],
            ["set and get in a handler, 32 in flight", f"{in_handler['calls_per_s']:,.0f} calls/s", ""],
            ["resident memory at start", f"{memory['start_mib']:.0f} MiB", "≤ 60"],
            [
                f"… after {memory['calls']:,.0f} calls",
                f"{memory['after_mib']:.0f} MiB ({growth:+.0%}; {since_warm:+.1%} since 10 s of load)",
                "+ ≤ 5 %",
            ],
            [
                "start to serving, 20 handler files, embedded store",
                f"{start[len(start) // 2]:.2f} s",
                "≤ 1.0 s",
            ],
        ],
    )


def workers(figures: Figures) -> str:
    rows = [
        [
            name.replace("_", " "),
            f"{it['calls_per_s']:,.0f}",
            f"{it['p50_us'] / 1000:.2f}",
            f"{it['p99_us'] / 1000:.2f}",
        ]
        for name, it in servers_of(figures).items()
    ]
    return table(["handler and workers, 32 in flight, not pinned", "calls/s", "p50 ms", "p99 ms"], rows)


def traces(figures: Figures) -> str:
    servers = servers_of(figures)
    without = servers["without"]
    rows = [
        [
            name,
            f"{it['calls_per_s']:,.0f}",
            f"{it['calls_per_s'] / without['calls_per_s']:.2f}",
            f"{it['cpu_us_per_call']:.0f}",
            f"{it['one_p50_us']:,.0f}",
        ]
        for name, it in servers.items()
    ]
    return table(["traces", "calls/s", "× without", "CPU µs/call", "p50 µs, one at a time"], rows)


def web(figures: Figures) -> str:
    asgi, wsgi = figures["asgi"], figures["wsgi"]
    targets = {"pure ASGI": "≥ 0.85", "BaseHTTPMiddleware": "≥ 1.5", "plain wrapper": "≥ 0.9"}
    rows = [
        [f"ASGI: {name}", f"{it['calls_per_s']:,.0f} calls/s", f"{it['ours_median']:.2f}"]
        for name, it in asgi.items()
    ]
    rows += [[f"WSGI: {name}", f"{it['us']:.1f} µs a call", f"{it['ours']:.2f}"] for name, it in wsgi.items()]
    for row in rows:
        row.append(targets.get(row[0].partition(": ")[2], ""))
    head = ["around an app, one Pre and one Response handler", "figure", "coprocess is × as quick", "target"]
    return "\n\n".join([machine(figures), table(head, rows)])


def lifecycle(figures: Figures) -> str:
    bare, whole = figures["no App"], figures["all four"]
    rows = [[name, *(f"{us:.2f}" for us in row), ""] for name, row in figures.items() if name != "machine"]
    cost = [f"{with_all - without:.2f}" for with_all, without in zip(whole, bare, strict=True)]
    rows.append(["before, after, teardown and a resource cost", *cost, "≤ 2"])
    head = ["a call of a handler without a transport", "sync: µs", "async: µs", "target"]
    return "\n\n".join([machine(figures), table(head, rows)])


def microseconds() -> str:
    words = [sys.executable, str(Path(__file__).with_name("microseconds.py"))]
    return "```\n" + subprocess.run(words, check=True, capture_output=True, text=True).stdout + "```"


def kong(figures: Figures) -> str:
    rows = []
    for case, servers in servers_of(figures).items():
        ours = servers["coprocess"]["events_per_s"]
        for name, it in servers.items():
            ratio = "" if name.startswith("coprocess") else f"{ours / it['events_per_s']:.1f}"
            times = f"{it['p50_us'] / 1000:,.2f} / {it['p99_us'] / 1000:,.2f}"
            rows.append([case, name, f"{it['events_per_s']:,.0f}", f"{it['cpu_us']:,.0f}", times, ratio])
    head = ["what", "server", "events/s", "CPU µs/event", "p50 / p99 ms", "coprocess is × as quick"]
    return "\n\n".join([machine(figures), table(head, rows)])


_ENVOY_CALLS = {
    "streams": "ext_proc, two header phases",
    "checks": "ext_authz, a Check that allows",
    "bare": "bare stream, two messages each way",
}
_ENVOY_PEERS = ("go", "grpcio-aio")


def envoy(figures: Figures) -> str:
    targets = {
        "streams": (" (≥ 1.0)", " (≤ 1.0)"),
        "checks": (" (≥ 1.05)", " (≤ 0.8)"),
        "bare": ("", " (≤ 1.0)"),
    }
    rows = []
    for what, call in _ENVOY_CALLS.items():
        servers = figures[what]
        go = servers["go"]
        for name, it in servers.items():
            of_rate, of_cpu = ("", "") if name in _ENVOY_PEERS else targets[what]
            rate, cpu = (it[key] / go[key] for key in ("calls_per_s", "cpu_us_per_call"))
            rows.append(
                [
                    call,
                    name,
                    f"{it['calls_per_s']:,.0f}",
                    "" if name == "go" else f"{rate:.2f}{of_rate}",
                    f"{it['cpu_us_per_call']:,.0f}",
                    "" if name == "go" else f"{cpu:.2f}{of_cpu}",
                ]
            )
    held = figures["held"]
    of_aio = ", ".join(
        f"{name} {it['cpu_us_per_call'] / figures['streams']['grpcio-aio']['cpu_us_per_call']:.2f}"
        for name, it in figures["streams"].items()
        if name not in _ENVOY_PEERS
    )
    waiting = (
        f"CPU of a stream, × that of a processor on grpc.aio (≤ 0.1): {of_aio}.\n\n"
        f"{held['streams']:,} streams that wait for upstreams: {held['kib_a_stream']:.1f} KiB each (≤ 20), "
        f"{held['threads_more']} threads more (0)."
    )
    head = ["what", "server", "a second", "× Go (target)", "CPU µs", "× Go (target)"]
    return "\n\n".join(
        [machine(figures), table(head, rows), waiting, f"![CPU of a request]({ENVOY_PLOT.name})"]
    )


#: Of a bar: its name, its length, what stands beside it, and whether it is ours.
Bar = tuple[str, float, str, bool]


def plot(figures: Figures) -> str:
    """Calls a second by server, with the ratio to Go."""
    servers = servers_of(figures)
    go = servers["go"]["calls_per_s"]
    ours = ("http2", "embedded-style", "grpcio")
    rows = [
        (name, rate, f"{rate:,.0f} ({rate / go:.2f} × Go)", name in ours)
        for name, rate in ((name, it["calls_per_s"]) for name, it in servers.items())
    ]
    return bars("calls/s, one core, one connection, 32 in flight", rows, machine(figures))


def kong_plot(figures: Figures) -> str:
    """Events a second, by case and server."""
    rows = [
        (
            f"{name}, {case.removeprefix('16 ')}",
            it["events_per_s"],
            f"{it['events_per_s']:,.0f}",
            name == "coprocess",
        )
        for case in ("one at a time", "16 connections")
        for name, it in figures[case].items()
    ]
    return bars("events/s, access phase with two PDK calls, one core", rows, machine(figures), 230)


def envoy_plot(figures: Figures) -> str:
    """CPU by call and server: the shorter, the better."""
    rows = [
        (
            f"{name}, {call.partition(',')[0]}",
            it["cpu_us_per_call"],
            f"{it['cpu_us_per_call']:,.0f}",
            name not in _ENVOY_PEERS,
        )
        for what, call in _ENVOY_CALLS.items()
        for name, it in figures[what].items()
    ]
    return bars("CPU µs of the server for a request, one core", rows, machine(figures))


def bars(title: str, rows: list[Bar], note: str, label_width: int = 130) -> str:
    most = max(length for _, length, _, _ in rows)
    height, bar_width = 26, 490 - label_width
    parts = []
    for index, (name, length, label, is_ours) in enumerate(rows):
        y = 34 + index * height
        width = length / most * bar_width
        parts.append(f'<text x="{label_width - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
        colour = "#2f6f9f" if is_ours else "#9aa5b1"
        parts.append(f'<rect x="{label_width}" y="{y}" width="{width:.0f}" height="18" fill="{colour}"/>')
        parts.append(f'<text x="{label_width + width + 6:.0f}" y="{y + 13}">{label}</text>')
    total = 64 + len(rows) * height
    parts.append(f'<text x="{label_width}" y="{total - 14}" fill="#5b6770">{note}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{total}" font-family="sans-serif" '
        f'font-size="12"><rect width="640" height="{total}" fill="white"/>'
        f'<text x="{label_width}" y="20" font-weight="bold">{title}</text>' + "".join(parts) + "</svg>\n"
    )


def sections(figures: Figures) -> dict[str, str]:
    """What stands between the markers of each name."""
    return {
        "machine": machine(figures["throughput"]),
        "throughput": throughput(figures["throughput"]),
        "ratios": ratios(figures),
        "in_flight": in_flight(figures["in_flight"]),
        "waiting": waiting(figures),
        "computing": computing(figures["computing"]),
        "loops": loops(figures["loops"]),
        "large_body": large_body(figures["large_body"]),
        "rest": rest(figures),
        "workers": workers(figures["workers"]),
        "traces": traces(figures["traces"]),
        "tls": throughput(figures["tls"]),
        "web": web(figures["web"]),
        "lifecycle": lifecycle(figures["lifecycle"]),
    }


def filled(page: str, texts: dict[str, str]) -> str:
    for name, text in texts.items():
        page = re.sub(
            f"<!-- {name} -->.*?<!-- /{name} -->",
            lambda _, name=name, text=text: f"<!-- {name} -->\n{text}\n<!-- /{name} -->",
            page,
            flags=re.S,
        )
    return page


def main() -> None:
    figures: Figures = json.loads(FIGURES.read_text())
    PAGE.write_text(filled(PAGE.read_text(), sections(figures) | {"microseconds": microseconds()}))
    PLOT.write_text(plot(figures["throughput"]))
    if "kong" in figures:
        KONG_PAGE.write_text(filled(KONG_PAGE.read_text(), {"figures": kong(figures["kong"])}))
        KONG_PLOT.write_text(kong_plot(figures["kong"]))
    if "envoy" in figures:
        ENVOY_PAGE.write_text(filled(ENVOY_PAGE.read_text(), {"figures": envoy(figures["envoy"])}))
        ENVOY_PLOT.write_text(envoy_plot(figures["envoy"]))


if __name__ == "__main__":
    main()
