"""What would go wrong between kong.conf, a declarative configuration and plugins."""

from __future__ import annotations

from coprocess.desk.kong.doctor.examine import examine
from coprocess.desk.kong.doctor.findings import RULES

__all__ = ["RULES", "examine"]
