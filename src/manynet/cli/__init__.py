"""The command line: it parses, calls the library and prints.

Exit codes: 0 done; 1 an error, told in one line; 2 no member satisfies the budget; 130 interrupted.
"""

# Each file registers its verbs, and the help lists them in this order.
from manynet.cli import _runs as _runs
from manynet.cli import _servers as _servers
from manynet.cli import _systems as _systems
from manynet.cli._app import app as app
from manynet.cli._outcome import main as main

__all__ = ["app", "main"]
