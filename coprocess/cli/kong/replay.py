"""`coprocess kong replay`."""

from __future__ import annotations

from coprocess.cli.replay import Recordings, recording_files, tell_replay


def replay(recordings: Recordings) -> None:
    """Play recordings of a real Kong through the simulated one, and print each difference.

    The simulated Kong is given what the recorded plugin server answered: what it sends, and what becomes of
    the request, must be as recorded. Exit status 1 on any difference.
    """
    from coprocess.desk.kong.replay import replay

    tell_replay(replay(recording_files(recordings)))
