"""`coprocess --help` and `version`."""

from __future__ import annotations

import sys

import pytest

from coprocess import __version__
from coprocess.process.config import Settings
from tests.cli.commands import Command

#: What other programs must not see; and tables, and what few ever change, which have variables and the file.
_NO_FLAGS = ("events_secret", "web_config")


def test_version(coprocess: Command) -> None:
    done = coprocess("version")

    versions = dict(line.split(" ", 1) for line in done.output.splitlines())
    assert versions["coprocess"] == __version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["grpcio"][0].isdigit()


def test_help_is_the_manual_of_every_setting(coprocess: Command) -> None:
    text = " ".join(coprocess("serve", "--help", env={"COLUMNS": "200"}).output.split())

    for name, field in Settings.model_fields.items():
        if name in _NO_FLAGS or name.startswith("http2_"):
            assert f"--{name.replace('_', '-')} " not in text
            continue
        assert f"--{name.replace('_', '-')}" in text
        assert field.description is not None
        assert " ".join(field.description.split()) in text


def test_help_lists_the_commands(coprocess: Command) -> None:
    done = coprocess("--help")

    assert done.status == 0
    for name in ("serve", "check", "call", "version"):
        assert f"\n  {name} " in done.output


@pytest.mark.parametrize("group", ["bundle", "envoy", "events", "kong"])
def test_no_group_of_commands_offers_what_others_do_not_have(coprocess: Command, group: str) -> None:
    """`envoy` alone offered to install completion, for itself."""
    assert "--install-completion" not in coprocess(group, "--help").output


def test_rollback_names_where_to(coprocess: Command) -> None:
    """It asked the service first, and told that none answers."""
    done = coprocess("rollback", "--to", "elsewhere")

    assert done.status == 2
    assert "'routes-off', 'previous'" in done.errors


def test_option_that_does_not_exist(coprocess: Command) -> None:
    done = coprocess("serve", "--lissten", "x")

    assert done.status == 2
    assert "No such option: --lissten" in done.errors
