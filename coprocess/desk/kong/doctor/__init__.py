"""What would go wrong between kong.conf, a declarative configuration and plugins."""

from __future__ import annotations

from coprocess.desk.kong.doctor.examine import examine
from coprocess.desk.kong.doctor.findings import RULES, KongFinding

__all__ = ["RULES", "KongFinding", "examine"]
