"""Handlers around what answers requests: a web app, or a gateway that is asked and told step by step."""
