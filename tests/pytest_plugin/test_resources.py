"""Resources are open for the fixtures, and tests put others in their place."""

from __future__ import annotations

import pytest

from tests.lifecycle.desk_program import PROGRAM
from tests.loading import write

pytest_plugins = "pytester"


def test_fixtures_open_resources_which_tests_override(pytester: pytest.Pytester) -> None:
    write(pytester.path, {"handlers/limits.py": PROGRAM, "coprocess.toml": '[app]\nurl = "x"\n'})
    pytester.makepyfile(
        """
        def test_it(gateway):
            assert gateway.get("/").upstream.headers["X-Client"] == "client of db of x"
            with gateway.override(db="fake"):
                assert gateway.get("/").upstream.headers["X-Db"] == "fake"
            assert gateway.get("/").upstream.headers["X-Db"] == "db of x"
            assert gateway.module("limits").app.config["url"] == "x"
        """
    )
    pytester.runpytest_subprocess("-p", "coprocess.testing.plugin").assert_outcomes(passed=1)
