"""The random exchanges of `make test-envoy-campaign`, with the simulated Envoy alone: each has an end."""

from __future__ import annotations

from coprocess.desk.envoy.simulator.config import EnvoyConfig
from coprocess.desk.envoy.simulator.envoy import Envoy
from coprocess.desk.envoy.simulator.exchange import Exchange
from tests.envoy_desk.campaign import scenarios
from tests.envoy_desk.campaign.comparing import differences
from tests.envoy_desk.campaign.servers import SimulatedServers


def exchange(number: int, seed: int) -> Exchange:
    config, reply = EnvoyConfig.read(scenarios.configuration(number)), scenarios.upstream_reply(seed)
    return Envoy(config, SimulatedServers(seed), lambda _: reply).request(scenarios.request(seed))


def test_every_exchange_has_an_end_and_is_the_same_again() -> None:
    answered = 0
    for number in range(40):
        for seed in range(number * 1000, number * 1000 + 5):
            once, again = exchange(number, seed), exchange(number, seed)
            answered += once.http_response.status is not None
            assert list(differences(once, again)) == []
    assert answered > 150


def test_what_differs_is_told() -> None:
    assert list(differences(exchange(0, 0), exchange(0, 1))) != []
