from . import submodule
from .handlers_within import within

exported = "exported by the package"
