"""What went otherwise than its author meant, in words for people who have not read the gateway's source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.gateway import HookTrial, Trial

#: `error`: the request failed by it. `warning`: something has no effect. `note`: it is as asked, or was
#: mended, but may surprise.
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a trial."""

    severity: Severity
    #: Stable, for machines: `edit-ignored`, `no-token`, …
    rule: str
    #: What is so.
    problem: str
    #: What the gateway did because of it.
    effect: str
    #: What to do instead.
    remedy: str
    hook: HookTrial | None = None

    def as_dict(self) -> dict[str, Any]:
        hook = self.hook
        return {
            "severity": self.severity,
            "rule": self.rule,
            "hook_type": hook.type if hook else None,
            "hook": hook.name if hook else None,
            "source": str(hook.source) if hook and hook.source else None,
            "problem": self.problem,
            "effect": self.effect,
            "remedy": self.remedy,
        }


def find(trial: Trial) -> list[Finding]:
    """The errors first; within a severity in the order of the hooks."""
    # Imported here: these modules make Findings.
    from coprocess.desk.tyk.trial import body_findings, ending_findings, hook_findings, mended_findings

    found = [
        *ending_findings.of_trial(trial),
        *(finding for hook in trial.hooks for finding in hook_findings.of_hook(hook)),
        *(finding for hook in trial.hooks for finding in body_findings.of_hook(hook)),
        *(finding for hook in trial.hooks for finding in mended_findings.of_hook(hook)),
        *ending_findings.of_events(trial),
        *ending_findings.of_hooks_not_called(trial),
    ]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
