"""One request through the simulated Envoy and the handlers, watched: for `envoy try` and the fixture."""

from __future__ import annotations

from coprocess.desk.envoy.trial.config import config_in, config_of
from coprocess.desk.envoy.trial.findings import Finding
from coprocess.desk.envoy.trial.handlers import HandlerServer
from coprocess.desk.envoy.trial.trial import Trial, TrialEnvoy
from coprocess.desk.hook_runs import HookRun

__all__ = ["Finding", "HandlerServer", "HookRun", "Trial", "TrialEnvoy", "config_in", "config_of"]
