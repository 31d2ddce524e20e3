"""Requests through the simulated Kong, for people: with plugins at work, and findings."""

from __future__ import annotations

from coprocess.desk.kong.trial.findings import Finding
from coprocess.desk.kong.trial.server import PhaseRun, PluginServers, plugin_servers
from coprocess.desk.kong.trial.trial import Trial, TrialKong

__all__ = ["Finding", "PhaseRun", "PluginServers", "Trial", "TrialKong", "plugin_servers"]
