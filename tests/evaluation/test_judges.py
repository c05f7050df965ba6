from dataclasses import replace

import pytest
import torch

import latens
from latens import Images, LatensError
from latens.evaluation.judges import Judge, Verdict, judge_of, shipped, trained_on


def test_the_judge_of_mnist_is_small():
    from latens.evaluation.judges import FOLDER

    files = {path.name: path.stat().st_size for path in (FOLDER / "mnist").iterdir()}
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert sum(files.values()) <= 300_000
    card = (FOLDER / "mnist" / "README.md").read_text("utf-8")
    assert f"{shipped('mnist').accuracy:.2%} of the 10,000 test images" in card


@pytest.mark.mnist
def test_the_judge_of_mnist_is_as_good_as_it_says():
    test = latens.load_data("mnist").test
    judge = shipped("mnist")
    accuracy = (judge(test.unit()) == test.labels).double().mean().item()
    assert accuracy == pytest.approx(judge.accuracy, abs=3e-4)
    assert accuracy >= 0.99


def test_a_judge_of_ones_own_classes_says_how_good_it_is(digits):
    judge = trained_on(digits.train, digits.test)
    assert judge.accuracy > 0.95
    right = (judge(digits.validation.unit()) == digits.validation.labels).double().mean()
    assert right > 0.95
    lies = (digits.test.labels + 1) % 10
    verdict = Verdict.on(judge, digits.test.unit(), lies)
    assert verdict.share < 0.05
    assert f"{verdict.right} of 179 images ({verdict.share:.1%})" in str(verdict)
    assert f"{judge.accuracy:.1%} right on real test images" in str(verdict)


def test_a_judge_that_was_never_measured_says_nothing_of_itself():
    judge = Judge("x", float("nan"), lambda images: torch.zeros(len(images), dtype=torch.long))
    verdict = Verdict.on(judge, torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 0, 1]))
    assert str(verdict) == "3 of 4 images (75.0%) show the class they claim, according to x"


def test_labels_that_no_judge_can_learn(digits):
    for train in (
        Images(digits.train.pixels),
        Images(digits.train.pixels, torch.zeros(len(digits.train), 3, dtype=torch.long)),
        Images(digits.train.pixels, torch.zeros(len(digits.train), dtype=torch.long)),
    ):
        with pytest.raises(LatensError, match="a judge needs"):
            trained_on(train, digits.test)


def test_which_judge(digits_run, tmp_path, digits, colour_folder):
    assert judge_of(digits_run, "none") is None
    found = judge_of(digits_run)
    assert found is not None
    assert "SVM" in found.name
    options = {"epochs": 2, "hidden": "32", "network": "mlp", "report": False, "film": False}
    judge = latens.train("digits", recipe="semi_supervised", out=tmp_path / "judge", **options)
    own = judge_of(digits_run, str(judge.path))
    assert own is not None
    assert own.name == "judge"
    assert own.accuracy == judge.figures["accuracy"]
    right = (own(digits.test.unit()) == digits.test.labels).double().mean().item()
    assert right == pytest.approx(own.accuracy, abs=0.02)
    with pytest.raises(LatensError, match="no classifier"):
        judge_of(digits_run, str(digits_run.path))
    with pytest.raises(LatensError, match="no such run"):
        judge_of(digits_run, "nothing-like-it")
    with pytest.raises(LatensError, match="cannot judge"):
        judge_of(digits_run, "mnist-semi-supervised-2d")


def test_data_that_are_gone_leave_no_judge(digits_run):
    data = digits_run.record["data"] | {"source": "/nowhere"}
    run = replace(digits_run, record=digits_run.record | {"data": data})
    assert judge_of(run) is None
    with pytest.raises(LatensError):
        judge_of(run, "data")
    data = data | {"classes": []}
    run = replace(digits_run, record=digits_run.record | {"data": data})
    assert judge_of(run) is None
    with pytest.raises(LatensError, match="knows no classes"):
        judge_of(run, "data")
