from dataclasses import replace

import numpy as np
import pytest
import torch

import latens
from latens import LatensError
from latens.model.serialization import read_tensors, write_tensors
from latens.run.recording import read_recording
from latens.training.recorder import EVERY, Recorder


def test_the_last_frame_is_what_the_model_makes(digits_run, digits):
    """The weights kept are the last epoch's here, so the oracle is the finished model."""
    assert min(digits_run.metrics, key=lambda r: r["validation"]["loss"])["epoch"] == 8
    recording, vae = read_recording(digits_run), digits_run.vae
    for split in ("train", "validation"):
        x = digits.split(split).take(slice(0, 16)).unit()
        expected = (vae.reconstruct(x) * 255).round()
        shown = torch.from_numpy(getattr(recording, split)[-1]).float()
        assert (shown - expected).abs().max() <= 1
        assert torch.allclose(recording.images(split)[-1] * 255, shown)
    expected = vae.embed(digits.validation.unit())
    assert np.allclose(recording.latents[-1], expected, atol=5e-3)


def test_a_recording_is_of_images_of_all_classes(digits, digits_run, tmp_path):
    """Of a folder the first rows are of one class; and what went on before goes on with its own."""
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    order = {name: digits.split(name).labels.argsort() for name in ("train", "validation")}
    data = replace(
        digits,
        **{n: replace(digits.split(n).take(o), shuffled=False) for n, o in order.items()},
    )
    Recorder(run, data).record(digits_run.vae, 0)
    recording = read_recording(run)
    for name in ("train", "validation"):
        shown = data.split(name).take(recording.rows[name])
        assert len(shown.labels.unique()) > 4
        expected = (digits_run.vae.reconstruct(shown.unit()) * 255).round()
        assert (torch.from_numpy(getattr(recording, name)[0]).float() - expected).abs().max() <= 1
    path = run.frames[0]
    tensors = read_tensors(path)[0]
    first = {name: t for name, t in tensors.items() if not name.startswith("rows.")}
    write_tensors(path, first, {})  # as 0.1.0 wrote it, of the first images
    Recorder(run, data, last=0).record(digits_run.vae, 1)
    assert torch.equal(read_recording(run).rows["train"], torch.arange(16))


def test_every_frame_is_drawn_from_the_same_noise(digits, digits_run, tmp_path):
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    recorder = Recorder(run, digits)
    torch.manual_seed(5)
    expected = torch.rand(3)
    recorder.record(digits_run.vae, 0)
    torch.manual_seed(5)
    recorder.record(digits_run.vae, 1)
    assert torch.equal(torch.rand(3), expected), "the user's noise is left alone"
    first, second = (read_tensors(path)[0] for path in run.frames.values())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_recording_leaves_the_training_alone(digits_run, tmp_path):
    options = {"recipe": "mlp", "latent_dim": 4, "epochs": 8, "film": False, "report": False}
    run = latens.train("digits", out=tmp_path / "run", **options)
    assert not (run.path / "film").exists()
    for name, value in run.vae.state_dict().items():
        assert torch.equal(value, digits_run.vae.state_dict()[name])


def test_long_trainings_are_recorded_ever_less_often(digits, digits_run, tmp_path):
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    recorder = Recorder(run, digits)
    for epoch in range(201):
        recorder.record(digits_run.vae, epoch, final=epoch == 200)
    epochs = np.array(list(run.frames))
    assert (epochs[: EVERY + 1] == np.arange(EVERY + 1)).all()
    assert epochs[-1] == 200
    assert len(epochs) < 40
    assert (np.diff(epochs[EVERY:-1]) >= 0.2 * epochs[EVERY:-2]).all()


def test_a_resumed_training_forgets_the_frames_it_repeats(digits_run, tmp_path):
    options = {"recipe": "mlp", "latent_dim": 4, "epochs": 4, "report": False}
    run = latens.train("digits", out=tmp_path / "run", **options)
    frames = {epoch: path.read_bytes() for epoch, path in run.frames.items()}
    for path in sorted((run.path / "checkpoints").glob("*.safetensors"))[1:]:
        path.unlink()
    resumed = latens.resume(run.path)
    assert {epoch: path.read_bytes() for epoch, path in resumed.frames.items()} == frames


def test_conditional_models_are_recorded_with_labels(tmp_path):
    options = {"recipe": "conditional", "network": "conv", "channels": 4, "features": 16}
    options |= {"latent_dim": 2, "epochs": 2, "report": False}
    run = latens.train("digits", out=tmp_path / "run", **options)
    recording = read_recording(run)
    assert list(recording.epochs) == [0, 1, 2]
    assert recording.samples.shape == (3, 36, 1, 8, 8)
    assert set(recording.features) == {
        name for name, part in run.vae.named_modules() if isinstance(part, torch.nn.Conv2d)
    }
    layers = [name for name, part in run.vae.named_modules() if isinstance(part, torch.nn.Conv2d)]
    assert list(recording.features) == layers, "from x to x̂"
    for layer, maps in recording.features.items():
        assert maps.shape[0] == len(recording.epochs)
        assert len({frame.tobytes() for frame in maps}) == len(recording.epochs), layer


def test_without_a_recording_it_is_said_how_to_get_one(digits_run, tmp_path):
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    with pytest.raises(LatensError, match="train anew with --film"):
        read_recording(run)


def test_frames_that_do_not_fit_together(digits_run, tmp_path):
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    run.save_frame(0, {"train": torch.zeros(1)})
    run.save_frame(1, {"train": torch.zeros(1), "more": torch.zeros(1)})
    with pytest.raises(LatensError, match="recording is damaged; train anew with --film"):
        read_recording(run)
