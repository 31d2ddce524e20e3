"""What only Tyk has, for the annotations of handlers: `from coprocess.tyk import Session`.

A handler that names one of these is refused by every other gateway, when it is loaded.
"""

from coprocess.gateways.tyk.request import TykRequest as Request
from coprocess.gateways.tyk.response import TykResponse as Response
from coprocess.gateways.tyk.session import TykSession as Session
from coprocess.gateways.tyk.session import TykSpec as Spec

__all__ = ["Request", "Response", "Session", "Spec"]
