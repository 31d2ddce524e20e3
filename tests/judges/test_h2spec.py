from __future__ import annotations

from pathlib import Path

import pytest

from tests.judges import judges


@pytest.mark.skipif(bool(judges.why_missing(judges.H2SPEC)), reason=judges.why_missing(judges.H2SPEC))
def test_each_rule_of_http2_is_kept(tmp_path: Path) -> None:
    verdict = judges.h2spec(tmp_path)
    assert verdict.failed == 0, verdict.text
    assert verdict.passed >= 146
