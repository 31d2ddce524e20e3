"""Stands in for the package of this name: its plugins run in coprocess' plugin server."""
