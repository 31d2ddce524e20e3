"""`coprocess envoy doctor`: what is wrong between Envoy's configuration and the handlers."""

from __future__ import annotations

from coprocess.desk.envoy.doctor.examine import Service, examine
from coprocess.desk.envoy.doctor.findings import RULES

__all__ = ["RULES", "Service", "examine"]
