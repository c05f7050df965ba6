"""An audit hook that notes what latens must never do, whatever a test asks of it.

- Code of latens itself that evaluates text, or starts a shell;
- unpickling on behalf of latens, directly or by a library;
- a connection to another machine.
"""

import ipaddress
import sys
from pathlib import Path

import latens

SOURCE = str(Path(latens.__file__).parent)
LOCAL = ("localhost", "")
found: list[str] = []


def _frames():
    frame = sys._getframe(2)  # above the hook
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


def _by_latens():
    return any(name.startswith(SOURCE) for name in _frames())


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
            return sys._getframe(2).f_code.co_filename.startswith(SOURCE)
        case "os.system":
            return _by_latens()
        case "subprocess.Popen":
            return str(arguments[0]).endswith(("/sh", "/bash")) and _by_latens()
        case "pickle.find_class":
            return _by_latens()
        case "socket.connect":
            return _is_far(arguments[1])
    return False


def _hook(event, arguments):
    if event in EVENTS and _forbidden(event, arguments):
        found.append(f"{event} {str(arguments)[:200]}")


EVENTS = {"exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "socket.connect"}


def watch():
    """From here on, for as long as the process lives."""
    sys.addaudithook(_hook)
