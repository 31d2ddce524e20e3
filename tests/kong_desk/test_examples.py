"""The plugins of examples/kong/: their own tests, and the signature's look-up in a real PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coprocess.desk.kong.trial import Trial, TrialKong, plugin_servers
from tests.server import PATIENCE_S

# Inner runs have processes of their own: in this one, they would have the half of the package imported anew.
pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "kong"


def test_the_examples_own_tests_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugins = ["-p", "no:cacheprovider", "-p", "coprocess", "-p", "anyio"]
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    shutil.copytree(EXAMPLES, pytester.path / "kong")
    result = pytester.runpytest_subprocess(*plugins, "kong")
    result.assert_outcomes(passed=13)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A URL of a server of its own, which listens on a unix socket only."""
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if None in programs:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="coprocess-pg-"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    initdb, postgres = map(str, programs)
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}
    made = subprocess.run(
        [initdb, "-D", f"{folder}/data", "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-sync"],
        user=user, env=environment, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"initdb does not run here: {made.stderr[-200:]}")
    server = subprocess.Popen(
        [postgres, "-D", f"{folder}/data", "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"],
        user=user, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        # At once, whoever is connected.
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


def filled(url: str) -> None:
    import psycopg

    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection = psycopg.connect(url)
            break
        except psycopg.OperationalError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
    with connection:
        connection.execute("CREATE TABLE customer (uuid uuid, certificate text, client_key text)")
        connection.execute(
            "INSERT INTO customer VALUES (gen_random_uuid(), 'cert-1', 'k-1'), "
            "(gen_random_uuid(), 'cert-2', '')"
        )


def asked(kong: TrialKong, certificate: str, key: str) -> Trial:
    when = str(int(time.time()))
    signature = hashlib.sha256(f"{certificate}|{key}|{when}".encode()).hexdigest()
    pairs = [("client-certificate-id", certificate), ("client-request-signature", signature)]
    return kong.request("GET", "/", [*pairs, ("client-request-time", when)])


def test_the_signature_plugin_with_a_real_postgresql(postgresql: str) -> None:
    filled(postgresql)
    path = EXAMPLES / "plugins" / "customer_verification.py"
    with plugin_servers([path]) as servers:
        configs = {"customer-verification": {"database": postgresql}}
        kong = TrialKong(servers, configs=configs)
        passed = asked(kong, "cert-1", "k-1")
        assert passed.status == 200
        assert passed.exchange.sent is not None
        assert len(passed.exchange.sent.headers.get(b"X-Customer-Id") or b"") == 36
        for certificate, key in (
            ("cert-1", "other"),
            ("cert-2", ""),
            ("nobody", ""),
            ("' OR '1'='1", "k-1"),
            ("x'; DROP TABLE customer; --", ""),
            ("%s", "k-1"),
        ):
            assert asked(kong, certificate, key).status == 403, certificate
        assert asked(kong, "cert-1", "k-1").status == 200
        kong.close()
