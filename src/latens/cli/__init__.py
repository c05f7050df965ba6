"""The command line: from arguments to the functions of the package.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from latens.cli import listing, measuring, showing, training, using  # the commands register here
from latens.cli.app import app, main

__all__ = ["app", "listing", "main", "measuring", "showing", "training", "using"]
