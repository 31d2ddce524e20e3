"""What tests of the lifecycle share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from coprocess.loading.hooks import HookTable

#: Writes files, loads the folder, opens its resources, and gives the table.
Opened = Callable[[Path, Mapping[str, str]], HookTable]
