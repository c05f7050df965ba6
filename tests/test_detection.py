"""Anomaly detection: its statistics against values worked out by hand, and its page."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

import latens
from latens.data import Images
from latens.data.streaming import Block
from latens.detection import Scored, _worst
from latens.evaluation.scores import QUICK, displacement
from latens.evaluation.separation import conformal_threshold, separation
from latens.features import Scorer


def test_auroc_is_the_share_of_pairs_in_order():
    good, bad = np.array([1.0, 2, 3, 4]), np.array([2.5, 4, 5])
    pairs = [(b > g) + 0.5 * (b == g) for g in good for b in bad]
    assert separation(good, bad).auroc == pytest.approx(np.mean(pairs))


def test_average_precision_by_hand():
    """In descending order: bad, good, bad, so precision 1 at half of them, then 2/3."""
    assert separation(np.array([2.0, 0]), np.array([3.0, 1])).average_precision == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3
    )


@pytest.mark.parametrize("levels", [4, 10_000])
def test_areas_are_those_of_scikit_learn(levels):
    """With many ties, and with hardly any."""
    rng = np.random.default_rng(levels)
    good, bad = rng.integers(levels, size=70) * 1.0, rng.integers(levels, size=30) + levels / 8
    found = separation(good, bad)
    is_bad, scores = np.repeat([0, 1], [70, 30]), np.concatenate([good, bad])
    assert found.auroc == pytest.approx(roc_auc_score(is_bad, scores))
    assert found.average_precision == pytest.approx(average_precision_score(is_bad, scores))


def test_an_interval_of_auroc_holds_the_truth_as_often_as_it_says():
    """Two Gaussians a distance d apart have AUROC Φ(d/√2)."""
    generator, held = np.random.default_rng(0), 0
    for i in range(60):
        good, bad = generator.normal(size=80), generator.normal(1, size=60)
        low, high = separation(good, bad, seed=i).auroc_interval
        held += low <= norm.cdf(1 / math.sqrt(2)) <= high
    assert 51 <= held <= 60  # of 57 expected; the binomial's 99.9 %


def test_one_more_good_image_passes_the_threshold_no_more_often_than_asked():
    generator = np.random.default_rng(0)
    passed = [
        generator.normal() > conformal_threshold(generator.normal(size=59), 0.1)
        for _ in range(5_000)
    ]
    assert abs(np.mean(passed) - 0.1) < 4 * math.sqrt(0.09 / 5_000)  # exactly 0.1 at n = 59
    assert conformal_threshold(np.arange(5.0), 0.1) == math.inf  # too few to say


def test_sixes_are_found_by_a_model_of_ones(tmp_path, run_latens):
    data = latens.load_data("digits")
    every = {split: data.split(split) for split in ("train", "test")}
    for split, images in every.items():
        np.save(tmp_path / f"{split}.npy", images.pixels[images.labels == 1].numpy())
    held = data.validation
    np.save(tmp_path / "good.npy", held.pixels[held.labels == 1].numpy())
    np.save(tmp_path / "bad.npy", data.train.pixels[data.train.labels == 6].numpy())
    train = "train train.npy --recipe mlp --latent-dim 2 --epochs 40 --no-report --out run"
    assert run_latens(*train.split()).returncode == 0
    few = ["--scores", "-elbo,nll", "--out", "few", "--false-positive-rate", "0.001"]
    result = run_latens("anomaly", "run", *few, "--good", "good.npy", "--bad", "bad.npy")
    assert "threshold none: too few good images  found –" in result.stdout
    text = (tmp_path / "few" / "anomaly.json").read_text()
    assert "Infinity" not in text
    assert set(json.loads(text)) == {"-elbo", "nll", "run", "images"}
    result = run_latens("anomaly", "run", "--good", "good.npy", "--bad", "bad.npy", "-n", "6")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "anomaly" / "anomaly.json").read_text())
    assert figures["images"]["bad"] == int((data.train.labels == 6).sum())
    assert figures["nll"]["auroc"] > 0.9
    best = max(figures[name]["auroc"] for name in QUICK)
    first = result.stdout.splitlines()[0]
    assert f"AUROC {best:.3f}" in first
    page = (tmp_path / "anomaly" / "report.html").read_text("utf-8")
    assert f"{best:.3f}" in page
    assert page.count("<figure") == 3
    scores = (tmp_path / "anomaly" / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + sum(figures["images"].values())
    pictures = {path.name for path in (tmp_path / "anomaly" / "pictures").iterdir()}
    assert pictures == {"scores.png", "roc.png", "worst.png"}


def test_what_is_shown_is_rebuilt_under_the_labels_of_its_score(monkeypatch):
    run = latens.Run.open("mnist-conditional-2d")
    pixels = latens.load("mnist-conditional-2d").sample(4, torch.arange(4)).mul(255).byte()
    scored = Scored(run, run.vae, ["displacement"], 4)
    images = Images(pixels, torch.tensor([0, 1, 2, -1]))
    block = Block(images, ["a", "b", "c", "d"], ["test"] * 4, [""] * 4)
    scorer = Scorer(run, run.vae, ["displacement"])
    for of in ("good", "bad"):
        scored.add(of, block, scorer(block))
    scored.separate(0.05, 0)
    asked, real = [], run.vae.reconstruct
    monkeypatch.setattr(run.vae, "reconstruct", lambda x, y: asked.append((x, y)) or real(x, y))
    list(_worst(scored))
    ((x, y),) = asked
    again = displacement(x, real(x, y))
    told = torch.tensor([value for value, *_ in scored.worst["displacement"]])
    torch.testing.assert_close(again, told, atol=1e-4, rtol=0)


def test_an_interval_holds_its_estimate():
    """Of few bad images, which are drawn several times and so tie with themselves."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        found = separation(rng.normal(size=200), rng.normal(size=3), seed=seed)
        for value, (low, high) in (
            (found.auroc, found.auroc_interval),
            (found.average_precision, found.average_precision_interval),
        ):
            assert 0 <= low <= value <= high <= 1


def test_a_rank_that_is_whole_is_not_rounded_up():
    """150 * (1 - 0.18) is 123, and a little more in floating point."""
    assert conformal_threshold(np.arange(149.0), 0.18) == 122.0
