"""One thing to know, from a doctor or a trial, in words for people who have not read a gateway's source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class Severity(StrEnum):
    """SARIF's names of the levels.

    At a doctor's, an error breaks what is examined. In a trial, `error`: the request failed by it;
    `warning`: something has no effect; `note`: it is as asked, or was mended, but may surprise.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know. Subclasses say where it is."""

    severity: Severity
    #: Stable, for machines: `edit-ignored`, `driver-wrong`, …
    rule: str
    #: What is so.
    problem: str
    #: What happens because of it, or did.
    effect: str
    #: What to do about it.
    remedy: str

    @property
    def about(self) -> str:
        """What ran where it is: a hook, a plugin's phase. Empty: it is about a file, or the whole request."""
        return ""

    @property
    def source(self) -> str:
        """`file:line:column`, as far as they are known."""
        return ""

    @property
    def place(self) -> dict[str, Any]:
        """Where it is, for `--json`."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "severity": self.severity.value,
            "rule": self.rule,
            **self.place,
            "problem": self.problem,
            "effect": self.effect,
            "remedy": self.remedy,
        }


class Ran(Protocol):
    """A hook that ran in a trial."""

    @property
    def type(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> object | None: ...


@dataclass(frozen=True, slots=True)
class HookFinding(Finding):
    """A trial's finding. Without a hook it is about the whole request."""

    hook: Ran | None = None

    @property
    def about(self) -> str:
        return f'{self.hook.type} "{self.hook.name}"' if self.hook else ""

    @property
    def source(self) -> str:
        return str(self.hook.source) if self.hook and self.hook.source else ""

    @property
    def place(self) -> dict[str, Any]:
        hook = self.hook
        return {
            "hook_type": hook.type if hook else None,
            "hook": hook.name if hook else None,
            "source": self.source or None,
        }


@dataclass(frozen=True, slots=True)
class FileFinding(Finding):
    """A doctor's finding: it is in a file."""

    file: Path
    #: As `custom_middleware.pre[0].name`; empty for source code and whole files.
    json_path: str = ""
    #: From 1 on; 0: not known.
    line: int = 0
    column: int = 0

    @property
    def order(self) -> tuple[Any, ...]:
        """By file, then by place in it."""
        return str(self.file), self.line, self.column, self.severity.rank, self.rule, self.problem

    @property
    def source(self) -> str:
        return ":".join(map(str, filter(None, (self.file, self.line, self.column))))

    @property
    def place(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "line": self.line or None,
            "column": self.column or None,
            "json_path": self.json_path or None,
        }


class Catalogue(dict[str, str]):
    """Every rule of a doctor: id → what it looks for."""

    def finding(
        self,
        severity: Severity,
        rule: str,
        file: Path,
        json_path: str,
        problem: str,
        effect: str,
        remedy: str,
        line: int = 0,
        column: int = 0,
    ) -> FileFinding:
        """Raises ValueError for a rule that is not in the catalogue: its manual would not tell of it."""
        if rule not in self:
            raise ValueError(f"{rule} is not in the catalogue")
        return FileFinding(severity, rule, problem, effect, remedy, file, json_path, line, column)
