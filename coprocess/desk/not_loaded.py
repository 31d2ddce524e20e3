"""Handler files that could not be loaded, as doctors tell of them."""

from __future__ import annotations

import re

from coprocess.desk.findings import Catalogue, FileFinding, Severity
from coprocess.loading.loaded import Problem


def not_loaded(rules: Catalogue, rule: str, problem: Problem, effect: str) -> FileFinding:
    """`effect`: what comes of it that its handlers are not there."""
    line, text = 0, problem.text
    if found := re.match(rf"{re.escape(str(problem.path))}:(\d+): ", text):
        line, text = int(found[1]), text[found.end() :]
    return rules.finding(
        Severity.ERROR,
        rule,
        problem.path,
        "",
        f"{text.removeprefix(f'{problem.path}: ')}.",
        effect,
        "Mend it; `coprocess check` shows where it raised.",
        line,
    )
