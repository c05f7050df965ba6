"""Atomic writes."""

import os

import pytest

from latens.files import replacing, write_bytes


@pytest.fixture
def umask():
    """A umask of the test's own, which is nobody else's afterwards."""
    old = os.umask(0o027)
    yield 0o027
    os.umask(old)


def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    """It is that of all threads: one that creates a file meanwhile would ignore it."""

    def refuse(mask):
        raise AssertionError("the umask was changed")

    monkeypatch.setattr(os, "umask", refuse)
    write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "absent" / "file", b"")
