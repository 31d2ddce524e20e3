"""What went otherwise than its author meant, in words for people who have not read the gateway's source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coprocess.desk.findings import HookFinding

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.gateway import HookTrial, Trial


@dataclass(frozen=True, slots=True)
class Finding(HookFinding):
    """One thing to know about a trial. Without a hook it is about the whole request."""

    hook: HookTrial | None = None


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
    return sorted(found, key=lambda finding: finding.severity.rank)
