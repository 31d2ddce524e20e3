"""What every image of ours must do, read from its Dockerfile: images are not built by tests."""

from __future__ import annotations

import json
import re

from coprocess.addresses import is_local
from coprocess.process.config import PREFIX, Settings
from coprocess.process.settings_loading import load_settings


def environment_of(dockerfile: str) -> dict[str, str]:
    """The variables that the final stage sets."""
    final = dockerfile[dockerfile.rindex("\nFROM ") :] if "\nFROM " in dockerfile else dockerfile
    lines = re.sub(r"\\\n\s*", " ", final)
    return {
        name: value
        for line in re.findall(r"^ENV (.+)$", lines, re.MULTILINE)
        for name, value in re.findall(r"(\w+)=(\S+)", line)
    }


def settings_of(dockerfile: str) -> Settings:
    """The service's settings in the container."""
    return load_settings(
        {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment_of(dockerfile).items()
            if name.startswith(PREFIX)
        }
    )


def assert_listens_where_it_says_and_reaps(dockerfile: str) -> None:
    settings = settings_of(dockerfile)
    [exposed] = re.findall(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
    addresses = [*settings.listen, settings.admin]
    reachable = {address.rpartition(":")[2] for address in addresses if not is_local(address)}
    assert set(exposed.split()) == reachable

    [entry] = re.findall(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)
    assert json.loads(entry)[:2] == ["tini", "--"]
    final = dockerfile[dockerfile.rindex("FROM ") :]
    assert re.search(r"apt-get install [^&]*\btini\b", final), "in the image that runs"
