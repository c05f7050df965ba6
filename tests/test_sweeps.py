import json

import pytest

import latens
from in_process import InProcess
from latens import LatensError
from latens.cli import main
from latens.cli.training import _swept
from latens.pictures import read_frames
from latens.sweeps import _has_ended, combinations, command, is_a_scale, sweep

SMALL = {"network": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 2, "film": False}
SMALL |= {"report": False}
WORDS = ["--network", "mlp", "--hidden", "16", "--latent-dim", "2", "--epochs", "2", "--no-film"]
WORDS += ["--no-report"]


@pytest.fixture
def one_process(monkeypatch):
    """Sweeps start no process."""
    monkeypatch.setattr("latens.sweeps.subprocess.Popen", InProcess)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A sweep of a conditional model over β."""
    out = tmp_path_factory.mktemp("sweeps") / "beta"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latens.sweeps.subprocess.Popen", InProcess)
        patch.setattr("latens.report.sections.manifolds.MANIFOLD_SIDES", (5,))
        sweep("digits", recipe="conditional", beta=[1, 5, 20], out=out, **SMALL)
    return out


def test_each_value_has_its_run(folder):
    for value in ("1", "5", "20"):
        run = latens.Run.open(folder / f"beta={value}")
        assert run.config.objective.options["beta"] == float(value)
        assert run.figures["images"] == 179


def test_films_plot_and_table_over_the_values(folder):
    films = {path.stem for path in (folder / "pictures").glob("*.gif")}
    assert films == {"latent-space", *(f"manifold-{digit}" for digit in range(10))}
    for path in (folder / "pictures").glob("*.gif"):
        assert len(read_frames(path)) == 3, path.name
    assert (folder / "pictures" / "rate-distortion.png").is_file()
    table = (folder / "table.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == [
        "| beta=1",
        "| beta=5",
        "| beta=20",
    ]
    page = (folder / "report.html").read_text()
    assert page.count("<figure id=") == 13
    assert page.count('data-film="sweep"') == 11, "one slider moves them all"
    assert page.count('data-player="sweep"') == 1
    assert "latens sweep digits --recipe conditional" in page
    assert "--beta 1 5 20" in page


def test_what_has_ended_is_kept_and_what_has_not_goes_on(folder, one_process, capfd):
    before = {path: path.read_bytes() for path in folder.glob("beta=*/model.safetensors")}
    (folder / "beta=5" / "figures.json").unlink()
    sweep("digits", recipe="conditional", beta=[1, 5, 20], out=folder, **SMALL)
    told = capfd.readouterr().err
    assert "kept, since they have ended: beta=1; beta=20" in told
    assert "training beta=5" in told
    assert {path: path.read_bytes() for path in before} == before
    assert (folder / "beta=5" / "figures.json").is_file()


def test_trainings_that_begin_at_a_run_go_on_too(digits_run, one_process, tmp_path, capfd):
    options = {"init_from": str(digits_run.path), "epochs": 1, "film": False, "report": False}
    for _ in range(2):
        sweep("digits", seeds=2, out=tmp_path / "two", **options)
    assert "kept, since they have ended: seed=0; seed=1" in capfd.readouterr().err


def test_a_folder_of_another_sweep_is_left_alone(folder):
    with pytest.raises(LatensError, match=r"trained with other options .*: choose another --out"):
        sweep("digits", recipe="conditional", beta=[1, 5], out=folder, **SMALL | {"epochs": 3})


def test_two_options_at_a_time(run_latens, one_process, tmp_path):
    done = run_latens(
        *["sweep", "digits", "--recipe", "mlp", "--hidden", "16", "--epochs", "1"],
        *["--latent-dim", "1", "3", "--beta=1", "4", "--no-film", "--no-report", "--out", "out"],
    )
    assert done.returncode == 0, done.stderr
    runs = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} - {"pictures"}
    assert runs == {f"latent_dim={d},beta={b}" for d in (1, 3) for b in (1, 4)}
    assert len(read_frames(tmp_path / "out" / "pictures" / "manifold.gif")) == 4
    assert done.stdout.splitlines()[-1] == "out/report.html"


def test_two_processes_at_a_time(run_latens, tmp_path):
    words = ["--recipe", "mlp", "--hidden", "16", "--epochs", "1", "--no-film", "--no-report"]
    done = run_latens("sweep", *words, "--latent-dim", "1", "3", "--jobs", "2", "--out", "out")
    assert done.returncode == 0, done.stderr
    for dims in (1, 3):
        assert latens.Run.open(tmp_path / "out" / f"latent_dim={dims}").vae.latent_shape == (dims,)
    assert len(read_frames(tmp_path / "out" / "pictures" / "manifold.gif")) == 2


def test_values_belong_to_the_option_before_them():
    found = _swept(("--latent-dim", "2", "--beta", "1", "5", "--hidden", "8", "--seed", "3"))
    assert found == {"latent_dim": 2, "beta": [1.0, 5.0], "hidden": "8", "seed": 3}
    with pytest.raises(LatensError, match="--latent-dim is given twice"):
        _swept(("--latent-dim", "2", "--beta", "1", "5", "--latent-dim", "8"))
    assert _swept(("--mirror", "true", "false")) == {"mirror": [True, False]}
    with pytest.raises(LatensError, match="--mirror true false"):
        _swept(("--mirror", "--no-mirror"))


@pytest.mark.parametrize("report", [True, False])
def test_a_training_whose_page_is_missing_has_not_ended(tmp_path, report):
    (config,) = combinations({"seed": [0], "report": report}, {"seed": [0]}).values()
    (tmp_path / "figures.json").touch()
    assert _has_ended(tmp_path, config) == (not report)
    (tmp_path / "report.html").touch()
    assert _has_ended(tmp_path, config)


def test_values_whose_folders_would_be_one(run_latens, tmp_path):
    done = run_latens("sweep", "--recipe", "mlp", "--init-from", "a/b", "a-b", "--out", "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "two of these values have the same folder" in done.stderr
    assert not (tmp_path / "out").exists()


def test_words_become_options():
    found = _swept(
        ("--beta", "1", "5", "--recipe", "beta", "--grey", "--latent-dim=3", "--no-film")
    )
    assert found == {
        "beta": [1.0, 5.0],
        "recipe": "beta",
        "grey": True,
        "latent_dim": 3,
        "film": False,
    }


def test_the_command_is_that_of_the_sweep():
    options = {"recipe": "mlp", "beta": [0.5, 4], "film": False}
    assert command("digits", options, {"beta": [0.5, 4]}) == (
        "latens sweep digits --recipe mlp --no-film --beta 0.5 4"
    )
    assert command("digits", {}, {"mirror": [True, False], "hidden": ["16", (16, 8)]}, 2) == (
        "latens sweep digits --mirror true false --hidden 16 16,8 --seeds 2"
    )
    options = {"latent_dim": [None, 3], "epochs": 2}
    called = command("digits", options, {"latent_dim": [None, 3]})
    assert called == "latens.sweep('digits', latent_dim=[None, 3], epochs=2)"


def test_data_without_a_name_are_refused(tmp_path):
    with pytest.raises(LatensError, match="give its data by name or path"):
        sweep(latens.load_data("digits"), beta=[1, 2], out=tmp_path / "out")


def test_a_mixed_sweep_shows_one_plane_for_all(run_latens, one_process, tmp_path):
    words = ["--hidden", "16", "--latent-dim", "3", "--epochs", "1", "--no-film", "--no-report"]
    words += ["--out", "out"]
    done = run_latens("sweep", "--network", "mlp", "--recipe", "conditional", "beta", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "pictures" / "manifold.gif").is_file()
    assert "The least −elbo" not in done.stdout, "p(x) and p(x | label)"
    done = run_latens("sweep", "--beta", "1", "2", "--out", tmp_path / "out" / "recipe=beta")
    assert done.returncode == 2
    assert "would be mixed with other files" in done.stderr


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (["beta=0.5", "beta=1e-05", "beta=4"], True),
        (["objective=elbo", "objective=iwae"], False),
        (["hidden=64,64", "hidden=64"], False),
        (["latent_dim=1,beta=1", "latent_dim=3,beta=1"], False),
        (["validation=None", "validation=100"], False),
    ],
)
def test_only_numbers_are_joined_by_a_line(names, joined):
    """Words have no order."""
    assert is_a_scale(names) is joined


def test_names_are_short():
    configs = combinations({"beta": [1.0, 0.25]}, {"beta": [1.0, 0.25]})
    assert list(configs) == ["beta=1", "beta=0.25"]
    assert configs["beta=0.25"].objective.options["beta"] == 0.25


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--epochs 1", "give an option several values"),
        ("--beta 1 1", "beta=1 is given twice"),
        ("--beta 1 2 --seed 1 2 --epochs 1 2", "at most two options"),
        ("--bta 1 2", "beta"),
        ("--beta 1 two", "two"),
        ("--latent-dim 1 2.5", "a whole number"),
        ("5 --beta 1 2", "5 belongs to no option"),
        ("--beta 1 -2", "beta is -2.0: it must be 0 or more"),
        ("--recipe mlp cnv", "cnv"),
        ("--beta 1 2 --jobs 0", "jobs is 0: it must be 1 or more"),
        ("--batch-size 10 100000", "larger than the 1438 training images"),
    ],
)
def test_sweeps_that_cannot_be(run_latens, tmp_path, words, told):
    done = run_latens("sweep", "digits", *words.split())
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_training_that_fails_is_named_and_the_others_are_kept(run_latens, one_process, tmp_path):
    words = [*WORDS, "--learning-rate", "0.001", "1e15", "--clip", "1e15", "--out", "out"]
    done = run_latens("sweep", "digits", "--recipe", "mlp", *words[2:])
    assert done.returncode == 2
    assert "these trainings failed: learning_rate=1e+15" in done.stderr
    assert json.loads((tmp_path / "out" / "learning_rate=0.001" / "figures.json").read_text())


def test_objectives_are_swept_with_and_without_beta(one_process, tmp_path):
    out = tmp_path / "out"
    sweep("digits", recipe="mlp", objective=["elbo", "iwae"], out=out, **SMALL)
    page, table = (out / "report.html").read_text(), (out / "table.md").read_text()
    assert [line.split(" | ")[-3] for line in table.splitlines()[2:4]] == ["β 1", "iwae, 8 samples"]
    for name in ("latent-space.gif", "manifold.gif", "rate-distortion.png", "curves.png"):
        assert (out / "pictures" / name).is_file()
    assert "--objective elbo iwae" in page


def test_seeds_are_one_row_and_pictures_are_of_the_first(one_process, tmp_path):
    out = tmp_path / "out"
    sweep("digits", recipe="beta", beta=[1, 20], seeds=2, seed=3, out=out, **SMALL)
    names = {path.name for path in out.glob("beta=*")}
    assert names == {f"beta={beta},seed={seed}" for beta in (1, 20) for seed in (3, 4)}
    assert [latens.Run.open(out / f"beta=1,seed={s}").config.run.seed for s in (3, 4)] == [3, 4]
    table = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:4]] == [
        "| beta=1 (2 seeds)",
        "| beta=20 (2 seeds)",
    ]
    assert len(read_frames(out / "pictures" / "latent-space.gif")) == 2
    assert "--beta 1 20 --seeds 2" in (out / "report.html").read_text()


def test_train_with_seeds(one_process, tmp_path, capsys):
    words = [
        "train",
        "digits",
        "--recipe",
        "beta",
        *WORDS,
        "--seeds",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    main(words)
    printed = capsys.readouterr().out
    assert "(2 seeds)" in printed
    assert " ± " in printed
    assert "| seed=0 | " in printed, "each seed has its row too"
    assert {path.name for path in (tmp_path / "out").glob("seed=*")} == {"seed=0", "seed=1"}


def test_seeds_that_cannot_be(tmp_path):
    for options, words in (
        ({"seeds": 0}, "1 or more"),
        ({"seeds": 2, "seed": [1, 2]}, "give one of them"),
    ):
        with pytest.raises(LatensError, match=words):
            sweep("digits", out=tmp_path / "out", **options, **SMALL)
    assert not (tmp_path / "out").exists()


def test_an_option_of_one_that_is_swept(one_process, tmp_path):
    """The page's command names both, and the trainings are those of a call."""
    chosen = {"recipe": "mlp", "prior": ["mixture", "vamp"], "components": 4}
    page = sweep("digits", out=tmp_path / "sweep", **SMALL | chosen | {"network": "auto"})
    assert "--prior mixture vamp" in page.read_text("utf-8")
    assert "--components 4" in page.read_text("utf-8")


def test_the_least_is_that_of_the_mean_over_seeds(one_process, tmp_path):
    page = sweep(
        "digits",
        recipe="mlp",
        latent_dim=[2, 3],
        seeds=2,
        out=tmp_path / "sweep",
        **{name: value for name, value in SMALL.items() if name not in ("latent_dim", "network")},
    )
    found = {}
    for dims in (2, 3):
        runs = [latens.Run.open(tmp_path / "sweep" / f"latent_dim={dims},seed={k}") for k in (0, 1)]
        found[f"latent_dim={dims}"] = -sum(run.figures["elbo"] for run in runs)
    assert f"The least −elbo is that of {min(found, key=found.get)}." in page.read_text("utf-8")


def test_seeds_are_no_scale():
    assert not is_a_scale({"seed=0": 0, "seed=1": 0})
