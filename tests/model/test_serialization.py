import pytest
import torch

import latens
from latens import LatensError
from latens.files import read_json, replacing, write_bytes
from latens.model import serialization
from latens.model.serialization import (
    SCALE,
    WEIGHTS,
    quantised,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)


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


def test_weights_in_eight_bits_are_near(tmp_path):
    """Each within half a step, a 127th of the largest of its block of 64: one far off costs 63."""
    torch.manual_seed(0)
    model = latens.VAE(
        latens.ConvEncoder((1, 8, 8), channels=8, features=16),
        latens.MLPDecoder(3, (1, 8, 8), (100,)),
    )
    for value in model.parameters():
        if value.dim() > 1:
            value.data.flatten()[0] = 50.0
    write_model(tmp_path, model, {}, bits=8)
    back = read_model(tmp_path)[0].state_dict()
    for name, value in model.state_dict().items():
        if value.dim() < 2:
            torch.testing.assert_close(back[name], value, rtol=1e-3, atol=1e-6)
            continue
        rows = value.flatten(1)
        found = back[name].flatten(1)
        for first in range(0, rows.shape[1], 64):
            part = slice(first, first + 64)
            step = rows[:, part].abs().amax(1, keepdim=True) / 127
            assert ((found[:, part] - rows[:, part]).abs() <= 0.51 * step + 1e-12).all(), name


def test_weights_with_a_scale_for_each_row_are_read(tmp_path):
    """As 8 bits were written once."""
    model = latens.VAE(latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(2, (1, 8, 8), (16,)))
    write_model(tmp_path, model, {}, bits=8)
    tensors, scales = {}, {}
    for name, value in model.state_dict().items():
        tensors[name] = value
        if value.dim() > 1:
            whole, scale = quantised(value, 8)
            tensors[name] = whole.to(torch.int8).reshape(value.shape)
            tensors[SCALE + name] = scales[name] = scale[:, 0]
    assert scales
    write_tensors(tmp_path / WEIGHTS, tensors, {"format": "pt"})
    back = read_model(tmp_path)[0].state_dict()
    for name, scale in scales.items():
        expected = tensors[name] * scale.reshape(-1, *[1] * (tensors[name].dim() - 1))
        torch.testing.assert_close(back[name], expected)


def test_scales_that_fit_no_weights_are_refused(tmp_path):
    tensors = {"a.weight": torch.ones(4, 100, dtype=torch.int8), f"{SCALE}a.weight": torch.ones(3)}
    with pytest.raises(LatensError, match="fits no weights"):
        serialization._in_32_bits(tensors)
