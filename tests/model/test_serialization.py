import pytest
import torch

from latens import LatensError
from latens.files import read_json, replacing, write_bytes
from latens.model.serialization import read_tensors, write_tensors


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_bytes(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_tensors_come_back_with_their_bits(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    write_tensors(tmp_path / "t.safetensors", tensors, {"state": "{}"})
    back, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"state": "{}"}
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name].nan_to_num(5), value.nan_to_num(5)), name


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 1000])
def test_what_is_no_safetensors_file(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)
    if content.endswith(b"{}      "):
        assert read_tensors(tmp_path / "t.safetensors") == ({}, {})
        return
    with pytest.raises(LatensError, match="truncated or no safetensors file"):
        read_tensors(tmp_path / "t.safetensors")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(LatensError, match="is damaged"):
        read_json(tmp_path / "c.json")
