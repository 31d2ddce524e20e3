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


def test_fixtures_go_by_routes_as_the_service_does(pytester: pytest.Pytester) -> None:
    of_version = (
        "from coprocess import Pre\n\n@Pre\ndef stamp(request):\n    request.headers['X-By'] = '{}'\n"
    )
    write(
        pytester.path,
        {
            "handlers/stamps.py": of_version.format("default"),
            "next/stamps.py": of_version.format("canary"),
            "coprocess.toml": '[routes.canary]\nhandlers = ["next"]\nweight_percent = 50\n',
        },
    )
    pytester.makepyfile(
        """
        from pathlib import Path
        from coprocess.loading.routes import Route

        CANARY = Route("canary", (Path("next"),), 50)

        def test_callers_have_their_version(gateway, dispatch):
            seen = set()
            for number in range(20):
                headers = {"Authorization": f"caller {number}"}
                expected = "canary" if CANARY.point(headers) < 0.5 else "default"
                assert gateway.get("/", headers=headers).upstream.headers["X-By"] == expected
                assert dispatch("Pre", "stamp", headers=headers).request.headers["X-By"] == expected
                seen.add(expected)
            assert seen == {"canary", "default"}
            # Each version has its own module of the name.
            modules = [gateway.module("stamps"), gateway.module("stamps", version="canary")]
            assert ["default" in Path(each.__file__).read_text() for each in modules] == [True, False]
        """
    )
    pytester.runpytest_subprocess("-p", "coprocess.testing.plugin").assert_outcomes(passed=1)
