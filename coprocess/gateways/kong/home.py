"""Kong, as the loader of plugins knows it."""

from coprocess.gateways.kong.stand_in import ALIASES
from coprocess.loading.home import Home

HOME = Home("kong", ALIASES)

#: For native handlers, whose calls the plugin opens.
NATIVE = Home("kong", calls_share_a_request=True)
