"""The audit hook of `conftest.py` sees what it is there for."""

import socket
import subprocess
import sys

import pytest

import audit


def as_latens(source, **names):
    """Run text as if it stood in a file of latens."""
    exec(compile(source, f"{audit.SOURCE}/model/x.py", "exec"), names)


@pytest.mark.parametrize(
    ("source", "event"),
    [
        ("eval('1 + 1')", "compile"),
        ("exec('1 + 1')", "compile"),
        ("import os; os.system('true')", "os.system"),
        ("import subprocess; subprocess.run('true', shell=True)", "subprocess.Popen"),
        ("import pickle; pickle.loads(b'cbuiltins\\nlen\\n.')", "pickle.find_class"),
        ("import numpy; numpy.load(path, allow_pickle=True)", "pickle.find_class"),
    ],
)
def test_acts_of_latens_are_seen(source, event, tmp_path):
    import numpy as np

    path = tmp_path / "x.npy"
    np.save(path, np.array([len], object))
    as_latens(source, path=path)
    assert event in "".join(audit.found())


def test_what_a_process_does_that_a_test_starts_is_seen(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"exec(compile('exec(\"1\")', {audit.SOURCE!r} + '/model/x.py', 'exec'))")
    subprocess.run([sys.executable, program], check=True)
    assert f"{program}']: compile" in "".join(audit.found())


def test_calls_of_other_machines_are_seen_and_those_of_this_one_are_not():
    for host in ("192.0.2.1", "127.0.0.1"):
        with socket.socket() as other:
            other.setblocking(False)
            other.connect_ex((host, 9))
    assert len(audit.found()) == 1


def test_acts_of_a_test_itself_are_let_be():
    assert eval("1 + 1") == 2
    subprocess.run("true", shell=True, check=True)
