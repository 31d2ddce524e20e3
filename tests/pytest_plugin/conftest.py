"""A project in a folder of its own; what its tests import is imported before."""

from __future__ import annotations

import asyncio
import json

import pytest

import coprocess.testing.dispatch
import coprocess.testing.gateway
from coprocess.desk.store import TRIAL_TIMEOUT_S, TemporaryServer
from coprocess.gateways.tyk import compat
from coprocess.store import store
from tests.pytest_plugin.projects import API, HANDLERS

# pytester forgets what an inner run imports. Modules that were there before stay, and are not made twice.
assert all((compat.ALIASES, coprocess.testing.dispatch, coprocess.testing.gateway))


@pytest.fixture(scope="package", autouse=True)
def _store_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As above, of what the store imports when it is used."""

    async def use() -> None:
        assert await store.aio.get("key") is None
        await store.aio.aclose()

    server = TemporaryServer(tmp_path_factory.mktemp("store"))
    store.configure(server.url, timeout_s=TRIAL_TIMEOUT_S)
    assert store.get("key") is None
    asyncio.run(use())
    store.close()
    server.close()


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing them would take most of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n')
    pytester.mkdir("handlers")
    (pytester.path / "handlers" / "shop.py").write_text(HANDLERS)
    (pytester.path / "api.json").write_text(json.dumps(API))
    return pytester
