"""The trials of `tests/chaos`, short: no time is asserted but that nothing hangs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.chaos import (
    admin_clients,
    blocked_loop,
    connections,
    disk_full,
    envoy,
    envoy_hostile,
    floods,
    hostile,
    kong,
    misbehaving,
    mixed,
    overload,
    reloads,
    report,
    sigterm,
    store_loss,
    unread_log,
    worker_loss,
)

#: What it tries is tried by a test of its own, in less time.
SLOW = pytest.mark.skipif("RUN_SLOW" not in os.environ, reason="a trial at length: make test-slow")
TRIED = ["http2", pytest.param("grpcio", marks=SLOW)]


def test_the_page_shows_the_figures_that_were_measured() -> None:
    figures = json.loads(report.FIGURES.read_text())
    page = report.PAGE.read_text()
    assert report.renewed(page, figures) == page
    for trial in figures["trials"]:
        assert report.row(trial) in page


@pytest.mark.parametrize("engine", TRIED)
def test_hostile_calls_end_with_a_clear_status_and_harm_no_other(tmp_path: Path, engine: str) -> None:
    hostile.trial(tmp_path, engine, 1000, strict=False)


def test_a_peer_that_floods_harms_no_other(tmp_path: Path) -> None:
    must_end = {"HPACK bomb", "empty CONTINUATION", "SETTINGS", "PING", "a frame of 16 MiB"}
    floods.trial(tmp_path, most_bytes=400_000, most_s=20, must_end=must_end, last_words_s=0.1)


@pytest.mark.parametrize("engine", TRIED)
def test_no_call_fails_while_handlers_are_reloaded(tmp_path: Path, engine: str) -> None:
    assert reloads.trial(tmp_path, engine, 5, broken_every=3)["broken"] == 1


@SLOW
def test_a_stop_loses_no_call_that_began(tmp_path: Path) -> None:
    sigterm.trial(tmp_path, "http2", 1)


def test_without_redis_only_what_stores_fails_and_it_recovers(tmp_path: Path) -> None:
    figures = store_loss.redis_trial(tmp_path, "http2", 1, strict=False)
    assert figures["with_storage"]["StoreError"] > 0


@pytest.mark.parametrize("engine", TRIED)
def test_bad_handlers_harm_their_own_calls_only(tmp_path: Path, engine: str) -> None:
    misbehaving.trial(tmp_path, engine, 2)


@SLOW
def test_a_blocked_loop_holds_up_no_time_limit_and_no_stop(tmp_path: Path) -> None:
    assert blocked_loop.trial(tmp_path, "http2", 1, strict=False)["good_failed"] == 0


@SLOW
def test_a_log_that_nobody_reads_holds_up_no_call(tmp_path: Path) -> None:
    unread_log.trial(tmp_path, "http2", 1)


def test_connections_that_do_nothing_harm_no_call(tmp_path: Path) -> None:
    connections.trial(tmp_path, "http2", 100, measure_s=0.1, strict=False)


def test_mixed_load_leaves_no_thread_or_descriptor(tmp_path: Path) -> None:
    mixed.trial(tmp_path, "http2", 1.0, warm_s=0.5, strict=False)


@pytest.mark.parametrize("with_store", [False, True])
def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path, with_store: bool) -> None:
    store_loss.service_trial(tmp_path, "http2", 1, with_store=with_store, strict=False)


@pytest.mark.parametrize("engine", TRIED)
def test_what_is_too_much_for_a_hook_is_refused_and_harms_no_other(tmp_path: Path, engine: str) -> None:
    overload.trial(tmp_path, engine, 2, strict=False)


def test_a_full_disk_fails_only_what_stores(tmp_path: Path) -> None:
    if not disk_full.can_have_a_small_disk(tmp_path):
        pytest.skip("a small disk cannot be mounted here")
    disk_full.trial(tmp_path, "http2")


def test_a_killed_worker_fails_only_the_calls_it_had(tmp_path: Path) -> None:
    worker_loss.trial(tmp_path, "http2", 1)


@SLOW
def test_workers_end_hostile_calls_with_a_clear_status(tmp_path: Path) -> None:
    hostile.trial(tmp_path, "http2", 500, strict=False, flags=("--workers=2",))


@SLOW
def test_a_stop_loses_no_call_that_began_in_a_worker(tmp_path: Path) -> None:
    sigterm.trial(tmp_path, "http2", 1, flags=("--workers=2",))


@SLOW
def test_slow_admin_clients_keep_nobody_out(tmp_path: Path) -> None:
    admin_clients.trial(tmp_path, "http2", 300, pages=20)


def test_exceptions_in_every_place_of_a_plugin_refuse_their_own_request_only(tmp_path: Path) -> None:
    kong.exceptions(tmp_path, 1)


def test_a_killed_plugin_server_answers_again_when_it_is_started(tmp_path: Path) -> None:
    kong.kills(tmp_path, 1)


def test_kongs_connections_that_do_nothing_harm_no_event(tmp_path: Path) -> None:
    kong.connections(tmp_path, 100)


def test_hostile_frames_harm_no_event(tmp_path: Path) -> None:
    kong.hostile(tmp_path, 300)


def test_events_instances_and_orphans_are_let_go(tmp_path: Path) -> None:
    kong.memory(tmp_path, events=1000, instances=50, orphans=20)


def test_mixed_load_of_kong(tmp_path: Path) -> None:
    kong.mixed(tmp_path, 1.0, strict=False)


def test_nothing_passes_by_the_guard_while_the_processor_is_killed_and_started_again(tmp_path: Path) -> None:
    envoy.kills(tmp_path, 1)


def test_no_request_fails_while_one_of_two_services_behind_envoy_is_restarted(tmp_path: Path) -> None:
    envoy.restarts(tmp_path, 1)


def test_streams_that_are_slow_or_left_harm_no_other(tmp_path: Path) -> None:
    envoy.clients(tmp_path, 40)


def test_streams_that_wait_for_their_upstreams_hold_no_thread(tmp_path: Path) -> None:
    envoy.streams(tmp_path, 300, steps=3, strict=False)


def test_hostile_messages_of_streams_end_with_an_answer_and_let_nothing_by(tmp_path: Path) -> None:
    envoy_hostile.trial(tmp_path, 150)


def test_mixed_load_of_envoy(tmp_path: Path) -> None:
    envoy.mixed(tmp_path, 1.0, warm_s=0.0, strict=False)
