"""What kong-pdk raises."""

from coprocess.gateways.kong.answers import PDKException as PDKException


class PluginServerException(Exception):
    """As kong-pdk has it; nothing here raises it."""
