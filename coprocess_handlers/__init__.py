"""Handler modules, by their names, for processes that handlers start: `multiprocessing` with spawn.

Such a process imports what it is to run by name. The folders are those that its parent had told.
"""

from coprocess.gateways.tyk.compat import ALIASES
from coprocess.loading.scoped_imports import open_told_scopes

open_told_scopes(ALIASES)
