"""Recordings of a real Envoy, played again: each part must come out as it was recorded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError

from coprocess.desk.envoy.simulator.compare import differences
from coprocess.desk.envoy.simulator.envoy import Envoy
from coprocess.desk.envoy.simulator.exchange import Exchange, UpstreamReply, UpstreamRequest
from coprocess.desk.envoy.simulator.recording import Recording
from coprocess.desk.envoy.simulator.script import ScriptedServer
from coprocess.desk.replay import NO_RECORDING, ReplayReport, in_words

_NO_RECORDING = (*NO_RECORDING, DecodeError, ParseError)


def replay(recordings: Iterable[Path | str]) -> ReplayReport:
    """Play each recording: its server's replies, its upstream's reply.

    What cannot be read, or holds what is not simulated, is reported as a difference is. Dates, ports,
    times and ids need not be the same.
    """
    problems: list[str] = []
    replayed = []
    for path in map(Path, recordings):
        try:
            recording = Recording(path)
            found = list(differences(recording, play(recording)))
        except _NO_RECORDING as error:
            problems.append(f"{path.name}: cannot be replayed: {in_words(error, path)}")
            continue
        problems += [f"{recording.name}: {text}" for text in found]
        replayed.append(recording.name)
    return ReplayReport(tuple(replayed), tuple(problems))


def play(recording: Recording) -> Exchange:
    reply, asked = recording.reply(), recording.upstream_request

    def upstream(_: UpstreamRequest) -> UpstreamReply:
        if reply is not None:
            return reply
        if asked is None:
            raise ConnectionRefusedError("the recording has no upstream request")
        raise TimeoutError("the recording has no upstream reply")

    envoy = Envoy(
        recording.config,
        ScriptedServer(recording.streams),
        upstream,
        partial_body_bytes=recording.partial_body_bytes(),
    )
    return envoy.request(recording.request())
