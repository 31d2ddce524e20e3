"""Handler modules, by their names, for processes that handlers start: `multiprocessing` with spawn.

Such a process imports what it is to run by name. The folders are those that its parent had told.
"""

from coprocess.scoped_imports import open_told_scopes
from coprocess.tyk.compat import ALIASES

open_told_scopes(ALIASES)
