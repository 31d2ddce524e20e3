"""What is wrong between a gateway's configuration, its API definitions and the handlers, before it runs."""

from __future__ import annotations

from coprocess.desk.findings import Severity
from coprocess.desk.sarif import sarif_log
from coprocess.desk.tyk.doctor.examine import examine
from coprocess.desk.tyk.doctor.project import Project, read_project
from coprocess.desk.tyk.doctor.rules import RULES

__all__ = ["RULES", "Project", "Severity", "examine", "read_project", "sarif_log"]
