import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch

import latens
from latens import LatensError
from latens.data import load_data
from latens.evaluation.metrics import evaluate, evaluate_each
from latens.model.grid import CELLS
from latens.report.comparison import compare
from latens.run.comparison import (
    Ranking,
    as_csv,
    as_latex,
    as_markdown,
    configurations,
    kind_of,
    named,
    rank,
    ranking,
    refusal,
    rows_of,
)

SMALL = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 2}
SMALL |= {"film": False, "report": False}


@pytest.fixture(scope="session")
def runs(digits_run, tmp_path_factory):
    """Runs of one kind, of a conditional model, of binary pixels and of another size."""
    folder = tmp_path_factory.mktemp("compared")
    small = SMALL
    conditional = {"recipe": "conditional", "network": "mlp"}
    images = np.random.default_rng(0).integers(0, 256, (40, 9, 9), dtype=np.uint8)
    np.save(folder / "other.npy", images)
    return {
        "first": digits_run,
        "second": latens.train("digits", out=folder / "second", **small),
        "conditional": latens.train("digits", out=folder / "conditional", **small | conditional),
        "bits": latens.train("digits", binarisation="threshold", out=folder / "bits", **small),
        "other": latens.train(folder / "other.npy", out=folder / "other", **small),
        "iwae": latens.train("digits", objective="iwae", out=folder / "iwae", **small),
        "vamp": latens.train("digits", prior="vamp", components=4, out=folder / "vamp", **small),
    }


def chosen(runs, *names):
    return {name: runs[name] for name in names}


def alone(runs):
    return {name: [run] for name, run in runs.items()}


def test_figures_of_one_kind_are_ranked_the_best_first(runs):
    both = chosen(runs, "second", "first")
    order, words = ranking(both)
    elbos = [runs[name].figures["elbo"] for name in order]
    assert elbos == sorted(elbos, reverse=True)
    assert words.startswith("Ranked by −elbo (grey cross-entropy), the least first: first")


def test_models_and_objectives_of_ones_own_are_no_seeds_of_one_another(tmp_path):
    def made(name, width=8, objective=None, seed=0):
        torch.manual_seed(seed)
        shape = (1, 8, 8)
        vae = latens.VAE(latens.MLPEncoder(shape, (width,)), latens.MLPDecoder(2, shape, (width,)))
        own = {"model": vae, "objective": objective}
        options = {"epochs": 1, "film": False, "report": False, "seed": seed}
        return latens.train("digits", out=tmp_path / name, **own, **options)

    runs = {"narrow": made("narrow"), "again": made("again", seed=1), "wide": made("wide", 16)}
    runs |= {f"iwae{k}": made(f"iwae{k}", objective=latens.IWAE(samples=k)) for k in (2, 3)}
    found = configurations(runs)
    assert [len(group) for group in found.values()] == [2, 1, 1, 1]
    assert next(iter(found.values())) == [runs["narrow"], runs["again"]]


@pytest.mark.parametrize("other", ["conditional", "bits", "other"])
def test_figures_of_different_kinds_are_not_ranked(runs, other):
    for pair in (("first", other), (other, "first")):
        order, words = ranking(chosen(runs, *pair))
        assert order == list(pair), "the order given is kept"
        assert words.startswith("Not ranked")
        assert "different kinds" in words


def test_other_test_images_are_not_ranked_and_the_same_of_another_split_are(tmp_path):
    small = SMALL
    first, other = (
        latens.train("digits", binarisation=how, out=tmp_path / how, **small)
        for how in ("threshold", "static")
    )
    order, words = ranking({"threshold": first, "static": other})
    assert "of different test images" in words
    assert order == ["threshold", "static"]
    fewer = latens.train("digits", binarisation="threshold", labels=50, out=tmp_path / "f", **small)
    assert fewer.record["data"]["fingerprint"] != first.record["data"]["fingerprint"]
    assert ranking({"a": first, "b": fewer})[1].startswith("Ranked")


def test_a_folder_with_other_files_is_left_alone(runs, tmp_path):
    both = [runs["first"].path, runs["conditional"].path]
    with pytest.raises(LatensError, match=r"holds .*: choose another --out"):
        compare(both, runs["second"].path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(LatensError, match="holds cats, and would be mixed"):
        compare(both, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]


def test_labels_of_other_classes_are_not_given_to_a_model(tmp_path):
    small = {"hidden": "16", "latent_dim": 2, "epochs": 2, "film": False, "report": False}
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "three.npz", images=images, labels=np.arange(40) % 3)
    conditional = {"recipe": "conditional", "network": "mlp"}
    three = latens.train(tmp_path / "three.npz", out=tmp_path / "a", **small | conditional)
    ten = latens.train("digits", out=tmp_path / "b", **small | conditional)
    for pair in ((three, ten), (ten, three)):
        page = compare([run.path for run in pair], tmp_path / "out")
        assert f"Test images of {pair[0].name}" in page.read_text()


def test_what_must_agree(runs):
    assert kind_of("", runs["conditional"])[0] == "grey cross-entropy, given the label"
    assert kind_of("", runs["bits"])[0] == "binary"
    assert kind_of("", runs["first"])[1] == "179 images of digits, 1×8×8"


def test_the_table_holds_the_figures(runs):
    both = chosen(runs, "first", "bits")
    table = as_markdown(rows_of(alone(both))).splitlines()
    assert len(table) == 4
    assert f"{-runs['first'].figures['elbo']:.2f}" in table[2]
    assert f"{runs['bits'].figures['bits_per_dim']:.3f}" in table[3]
    assert "accuracy" not in table[0], "no model has a classifier"
    assert len({line.count("|") for line in table}) == 1


def test_names_are_text_in_markdown():
    name = "<img src=x onerror=alert(1)>|a\nb"
    table = as_markdown([{"run": name, "−elbo": "3"}]).splitlines()
    assert table[2] == r"| &lt;img src=x onerror=alert(1)&gt;\|a b | 3 |"


def test_a_page_with_the_same_images_and_the_same_noise(runs, tmp_path):
    both = [runs["first"].path, runs["conditional"].path]
    page = compare(both, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    names = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert names == {"curves.png", "rate-distortion.png", "same-images.png", "same-noise.png"}
    text = page.read_text()
    assert text.count("<figure id=") == 4
    assert set(re.findall(r"http[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "Not ranked" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("other", ["iwae", "vamp"])
def test_any_objective_and_any_prior_can_be_compared(runs, other, tmp_path):
    page = compare([runs["second"].path, runs[other].path], tmp_path / "out")
    assert page.read_text().count("<figure id=") == 4
    objectives = [row["objective"] for row in rows_of(alone(chosen(runs, other)))]
    assert objectives == ["iwae, 8 samples" if other == "iwae" else "β 1"]
    assert objectives[0] in (tmp_path / "out" / "table.md").read_text()
    assert ranking(chosen(runs, "second", other))[1].startswith("Ranked by −elbo")


def test_models_of_other_sizes_share_no_image(runs, tmp_path):
    page = compare([runs["first"].path, runs["other"].path], tmp_path / "out")
    assert "images of different sizes" in page.read_text()
    assert page.read_text().count("<figure id=") == 2


def test_names_are_as_long_as_tells_them_apart(digits_run, tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    runs = [latens.Run.create(path, digits_run.record) for path in paths]
    assert list(named(runs)) == ["a/run", "b/run"]
    for revision in ("0123456789", "abcdef0123"):
        of_hub = tmp_path / "models--me--digits" / "snapshots" / revision
        shutil.copytree(runs[0].path, of_hub)
        runs.append(latens.Run.open(of_hub))
    assert list(named(runs))[2:] == ["me/digits@0123456", "me/digits@abcdef0"]
    with pytest.raises(LatensError, match="given twice"):
        named([runs[0], runs[0]])


def test_runs_that_cannot_be_compared(run_latens, digits_run, tmp_path):
    one = run_latens("compare", digits_run.path)
    assert (one.returncode, one.stderr.count("\n")) == (2, 1)
    assert "two runs or more" in one.stderr
    latens.Run.create(tmp_path / "unfinished", digits_run.record)
    unfinished = run_latens("compare", digits_run.path, tmp_path / "unfinished", "--out", "out")
    assert unfinished.returncode == 2
    assert "its training has not ended; go on by --resume" in unfinished.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_table_and_the_page(run_latens, runs, tmp_path):
    done = run_latens("compare", runs["first"].path, runs["second"].path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "comparison/report.html"
    assert "| run | kind | −elbo |" in done.stdout
    assert "Ranked by −elbo" in done.stdout


def test_the_same_noise_is_the_same_for_all(runs, tmp_path):
    from PIL import Image

    for folder in ("a", "b"):
        torch.manual_seed(ord(folder))
        compare([runs["first"].path, runs["second"].path], tmp_path / folder)
    shown = [Image.open(tmp_path / f / "pictures" / "same-noise.png").tobytes() for f in "ab"]
    assert shown[0] == shown[1]


# ---- paired differences ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def seeds(digits_run, tmp_path_factory):
    """Two configurations of two seeds each."""
    folder = tmp_path_factory.mktemp("seeds")
    names = {f"{width}/seed={seed}": (width, seed) for width in (4, 32) for seed in (0, 1)}
    options = SMALL | {"epochs": 6}
    return {
        name: latens.train(
            "digits", out=folder / name, **options | {"hidden": str(width), "seed": seed}
        )
        for name, (width, seed) in names.items()
    }


def test_costs_of_each_image_have_the_means_of_evaluate(digits_run):
    test = load_data("digits").test
    each = evaluate_each(digits_run.vae, test, importance_samples=20)
    whole = evaluate(digits_run.vae, test, importance_samples=20)
    assert each["-elbo"].shape == (len(test),)
    assert each["-elbo"].mean().item() == pytest.approx(-whole.elbo, abs=1e-9)
    assert each["nll"].mean().item() == pytest.approx(whole.nll, abs=1e-9)


def test_runs_that_differ_in_their_seed_alone_are_one_configuration(seeds):
    groups = configurations(seeds)
    assert {name: len(every) for name, every in groups.items()} == {"4": 2, "32": 2}
    row = rows_of(groups)[0]
    assert row["run"] == "4 (2 seeds)"
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", row["−elbo"])
    elbos = [-run.figures["elbo"] for run in groups["4"]]
    assert row["−elbo"] == f"{np.mean(elbos):.2f} ± {np.std(elbos, ddof=1):.2f}"


def test_a_copy_of_a_run_is_no_second_seed(seeds, tmp_path):
    shutil.copytree(seeds["4/seed=0"].path, tmp_path / "copy")
    both = {"4/seed=0": seeds["4/seed=0"], "copy": latens.Run.open(tmp_path / "copy")}
    assert [len(every) for every in configurations(both).values()] == [1, 1]
    found = configurations(both | {"4/seed=1": seeds["4/seed=1"]})
    assert sorted(len(every) for every in found.values()) == [1, 2]


def test_differences_are_paired_and_the_wider_model_wins(seeds):
    found = rank(configurations(seeds))
    assert found.order == ["32", "4"]
    assert found.means["32"] < found.means["4"]
    difference = found.differences["4"]
    assert difference.mean == pytest.approx(found.means["4"] - found.means["32"])
    assert difference.low < difference.mean < difference.high
    assert "Ranked by −elbo (grey cross-entropy), the least first: 32." in found.comment


def test_the_same_weights_are_not_told_apart(runs, tmp_path):
    shutil.copytree(runs["second"].path, tmp_path / "again")
    again = latens.Run.open(tmp_path / "again")
    found = rank({"second": [runs["second"]], "again": [again]})
    assert (found.differences["again"].low, found.differences["again"].high) == (0, 0)
    assert "not told apart" in found.comment


def test_ranked_by_nll_where_samples_are_asked_for(runs):
    found = rank(alone(chosen(runs, "first", "second")), importance_samples=20)
    assert found.cost == "nll"
    assert "Ranked by nll of 20 samples" in found.comment
    row = rows_of(alone(chosen(runs, "first", "second")), found)[0]
    assert row["nll"] == f"{found.means[found.order[0]]:.2f}"


@pytest.mark.whole
def test_another_q_is_refused_unless_one_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(CELLS, 2, 64)
    shutil.copytree(runs["second"].path, tmp_path / "grid")
    figures = runs["second"].figures | {"posterior": "grid of 64² cells"}
    (tmp_path / "grid" / "figures.json").write_text(json.dumps(figures))
    both = {"second": runs["second"], "grid": latens.Run.open(tmp_path / "grid")}
    assert "q(z|x): encoder; q(z|x): grid" in refusal(both)
    assert refusal(both, any_q=True) is None
    page = compare([run.path for run in both.values()], tmp_path / "own")
    assert "Not ranked" in page.read_text()
    page = compare([run.path for run in both.values()], tmp_path / "same", posterior="grid")
    assert "Ranked by −elbo" in page.read_text()


def test_tables_in_every_format_hold_the_same_cells(seeds, tmp_path):
    page = compare([run.path for run in seeds.values()], tmp_path / "out")
    markdown, latex, text = (
        (page.parent / f"table.{end}").read_text() for end in ("md", "tex", "csv")
    )
    rows = [*csv.DictReader(io.StringIO(text))]
    assert [row["run"] for row in rows] == ["32 (2 seeds)", "4 (2 seeds)"]
    assert re.fullmatch(r"\+.* \[.*, .*\]", rows[1]["difference"])
    for cell in rows[1].values():
        assert cell in markdown
    assert latex.count(r"\\") == 3
    assert r"$\pm$" in latex
    assert "±" not in latex.partition("\n")[2]
    data = json.loads((page.parent / "table.json").read_text())
    assert [len(every) for every in data["configurations"].values()] == [2, 2]
    assert data["ranking"]["differences"]["4"]["low"] < data["ranking"]["differences"]["4"]["high"]


def test_latex_and_commas_in_names_are_escaped(runs):
    rows = rows_of({"a_1,b & 50%": [runs["first"]]})
    assert r"a\_1,b \& 50\%" in as_latex(rows)
    assert next(iter(csv.DictReader(io.StringIO(as_csv(rows)))))["run"] == "a_1,b & 50%"


def test_the_command_prints_one_format_alone(run_latens, runs):
    both = runs["first"].path, runs["second"].path
    done = run_latens("compare", *both, "--format", "json", "--importance-samples", 5)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ranking"]["importance_samples"] == 5
    wrong = run_latens("compare", *both, "--importance-samples", 0)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_no_configuration_hides_another(tmp_path):
    """Seeds of a sweep, whose name without the seed is that of a run of another one."""
    runs = {}
    for name, options in {
        "beta=1,seed=0": {"seed": 0},
        "beta=1,seed=1": {"seed": 1},
        "beta=1": {"epochs": 2},
    }.items():
        small = {"recipe": "mlp", "hidden": "8", "latent_dim": 2, "epochs": 1} | options
        out = tmp_path / name
        runs[name] = latens.train("digits", out=out, report=False, film=False, **small)
    groups = configurations(runs)
    assert sorted(map(len, groups.values())) == [1, 2]
    assert set(groups) == {"beta=1,seed=0 to beta=1,seed=1", "beta=1"}


def test_figures_of_another_q_do_not_stand_beside(runs):
    both = chosen(runs, "second", "first")
    ranked = Ranking("-elbo", None, {"second": 7.0, "first": 8.0}, {}, "bits", "grid")
    rows = rows_of(configurations(both), ranked)
    assert [row["−elbo"] for row in rows] == ["7.00", "8.00"]
    assert not any(row["reconstruction"] or row["kl"] or row["bits per dim"] for row in rows)


def test_runs_of_different_arrays_are_shown_unranked(tmp_path):
    runs = []
    for seed in (0, 1):
        images = np.random.default_rng(seed).integers(0, 255, (60, 8, 8), np.uint8)
        small = {"recipe": "mlp", "hidden": "8", "latent_dim": 2, "epochs": 1, "film": False}
        runs.append(latens.train(images, out=tmp_path / str(seed), report=False, **small))
    page = compare([run.path for run in runs], out=tmp_path / "page")
    assert "came from Python, and cannot be measured again" in page.read_text("utf-8")
