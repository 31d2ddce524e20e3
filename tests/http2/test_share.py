"""What all connections may hold together."""

from __future__ import annotations

from coprocess.transport.http2.share import Share


def each_after(share: Share, *held: int) -> int:
    """What each may hold after a round in which they held that."""
    for each in held:
        share.count(each)
    share.end_round()
    return share.each_bytes


def test_each_that_holds_something_has_an_equal_part_where_all_hold_too_much() -> None:
    share = Share(1_000_000)
    assert each_after(share, 600_000, 400_000) == 1_000_000
    # Those with little have no part of it.
    assert each_after(share, 600_000, 600_000, *[100] * 50) == 500_000
    # A round knows nothing of the one before.
    assert each_after(share, 600_000, 400_000) == 1_000_000
    assert each_after(share, *[100_000] * 20) == 64 * 1024


def test_a_round_tells_whether_anything_has_changed() -> None:
    share = Share(100)
    assert not share.end_round()
    share.count(200)
    assert share.end_round()
    share.count(200)
    assert not share.end_round()
    assert share.end_round()
