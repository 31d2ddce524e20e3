"""What is wrong between a gateway's configuration, its API definitions and the handlers, before it runs."""

from __future__ import annotations

from coprocess.desk.findings import RULES, Finding, Severity
from coprocess.desk.sarif import sarif_log
from coprocess.desk.tyk.doctor.examine import examine
from coprocess.desk.tyk.doctor.project import Project, read_project

__all__ = ["RULES", "Finding", "Project", "Severity", "examine", "read_project", "sarif_log"]
