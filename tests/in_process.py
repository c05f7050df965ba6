"""The trainings of a sweep in the process of the test: that spares many starts of Python."""

import subprocess
import sys

from latens.cli import main


class InProcess(subprocess.Popen):
    """In place of `subprocess.Popen` of a training: it has ended when it is made."""

    def __init__(self, command, **_):
        assert command[:4] == [sys.executable, "-P", "-m", "latens"]
        self.status = 0
        try:
            main(command[4:])
        except SystemExit as stop:
            self.status = stop.code or 0

    def wait(self, timeout=None):
        """Its exit status."""
        return self.status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
