"""An audit hook that notes what latens must never do, whatever a test asks of it.

It watches the tests and every process that they start; what it notes goes to one file.

- Code of latens itself that evaluates text, or starts a shell;
- unpickling on behalf of latens, directly or by a library;
- a connection to another machine.
"""

import functools
import ipaddress
import os
import sys
from pathlib import Path

SOURCE = str(Path(__file__).parents[2] / "src" / "latens")
LOCAL = ("localhost", "")
COMPILER = ("/torch/_inductor/", "/torch/_functorch/", "/torch/_dynamo/")  # its cache is pickled
NOTES = "LATENS_TEST_NOTES"  # in the environment: the file's name


def _frames():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            yield frame.f_code.co_filename
        frame = frame.f_back


def _by_latens():
    return any(name.startswith(SOURCE) for name in _frames())


def _by_compiler():
    return any(part in name for name in _frames() for part in COMPILER)


def _is_far(address):
    host = address[0] if isinstance(address, tuple) else ""  # else a socket of this machine
    if isinstance(host, bytes):
        host = host.decode()
    try:
        at = ipaddress.ip_address(host)
        return not (at.is_loopback or at.is_unspecified)
    except ValueError:
        return host not in LOCAL


def _forbidden(event, arguments):
    match event:
        case "exec" | "compile":
            return next(_frames(), "").startswith(SOURCE)
        case "os.system":
            return _by_latens()
        case "subprocess.Popen":
            return str(arguments[0]).endswith(("/sh", "/bash")) and _by_latens()
        case "pickle.find_class":
            return _by_latens() and not _by_compiler()
        case "socket.connect":
            return _is_far(arguments[1])
    return False


def _hook(event, arguments):
    if event in EVENTS and _forbidden(event, arguments):
        with Path(os.environ[NOTES]).open("a") as notes:
            notes.write(f"{sys.argv[:5]}: {event} {str(arguments)[:200]}\n")


EVENTS = {"exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "socket.connect"}


def found():
    """What was noted since this was last asked."""
    notes = Path(os.environ[NOTES])
    lines = notes.read_text().splitlines() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return lines


@functools.cache  # a worker of the tests is started by a test process, and tests itself
def watch():
    """From here on, for as long as the process lives."""
    sys.addaudithook(_hook)
