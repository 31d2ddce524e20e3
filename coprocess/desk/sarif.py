"""Findings as SARIF 2.1.0, the format in which code hosts take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coprocess.desk.findings import FileFinding


def sarif_log(
    findings: Iterable[FileFinding], *, version: str, base: Path, rules: Mapping[str, str]
) -> dict[str, Any]:
    """The log of one run. Files below `base` are named relative to it, as code hosts expect."""
    ids = list(rules)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "coprocess doctor",
                        "version": version,
                        "rules": [
                            {"id": rule, "shortDescription": {"text": f"{text}."}}
                            for rule, text in rules.items()
                        ],
                    }
                },
                "originalUriBaseIds": {"ROOT": {"uri": f"{base.resolve().as_uri()}/"}},
                "results": [_result(finding, ids.index(finding.rule), base) for finding in findings],
            }
        ],
    }


def _result(finding: FileFinding, rule_index: int, base: Path) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(finding.file, base)}
    if finding.line:
        region = {"startLine": finding.line}
        if finding.column:
            region["startColumn"] = finding.column
        physical["region"] = region
    location: dict[str, Any] = {"physicalLocation": physical}
    if finding.json_path:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.json_path, "kind": "member"}]
    return {
        "ruleId": finding.rule,
        "ruleIndex": rule_index,
        "level": finding.severity.value,
        "message": {"text": f"{finding.problem} {finding.effect} {finding.remedy}"},
        "locations": [location],
    }


def _artifact(file: Path, base: Path) -> dict[str, str]:
    absolute = file.absolute()
    if absolute.is_relative_to(base.absolute()):
        # quoted, as a URI must be.
        relative = absolute.relative_to(base.absolute())
        prefix = Path("/").as_uri()
        return {"uri": (Path("/") / relative).as_uri().removeprefix(prefix), "uriBaseId": "ROOT"}
    return {"uri": absolute.as_uri()}
