"""What is wrong between a gateway's configuration, its API definitions and the handlers, before it runs."""

from __future__ import annotations

from coprocess.desk.tyk.doctor.examine import examine
from coprocess.desk.tyk.doctor.findings import RULES, Finding, Severity
from coprocess.desk.tyk.doctor.project import Project, read_project
from coprocess.desk.tyk.doctor.sarif import sarif_log

__all__ = ["RULES", "Finding", "Project", "Severity", "examine", "read_project", "sarif_log"]
