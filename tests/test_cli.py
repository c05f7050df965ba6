"""The command line as a user meets it: bad input is one line, status 2, and nothing written."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import latens
from latens import catalogue
from latens.cli import app
from latens.config import option_names
from latens.model.serialization import write_model

QUICK = ["--recipe", "mlp", "--latent-dim", "2", "--epochs", "1", "--hidden", "32", "--no-report"]


def expect_refusal(finished, words, folder=None):
    """One line on stderr that says `words`, status 2, and nothing left behind."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2, finished
    assert lines, finished
    assert lines[-1].startswith("latens: error: "), finished.stderr
    assert "Traceback" not in finished.stderr
    assert words in lines[-1], lines[-1]
    assert all(line.startswith("latens: ") for line in lines), finished.stderr
    assert finished.stdout == ""
    if folder is not None:
        assert sorted(path.name for path in folder.iterdir()) == []


@pytest.fixture
def array(tmp_path_factory):
    """A small .npy outside the folder that commands run in."""
    path = tmp_path_factory.mktemp("arrays") / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    return path


# ---- the good path ---------------------------------------------------------------------------


@pytest.mark.usefixtures("few_frames")
def test_train_evaluate_sample_reconstruct_report(shell_latens, run_latens, tmp_path, digits):
    """The training in a process of its own, as a user starts it; what follows in this one."""
    done = shell_latens("train", "digits", "--recipe", "mlp", "--latent-dim", "2", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.splitlines()[-1]
    assert run.name == "digits-mlp-1"
    assert (run / "report.html").is_file()
    assert "3 epochs on cpu" in done.stderr

    figures = json.loads(run_latens("evaluate", run, "--importance-samples", 8, "--json").stdout)
    expected = {
        "elbo", "reconstruction", "kl", "nll", "nll_stderr", "kind", "bits_per_dim",
        "active_units", "images", "seconds",
    }  # fmt: skip
    assert expected <= figures.keys()
    assert figures["elbo"] == pytest.approx(-figures["reconstruction"] - figures["kl"])
    assert -figures["elbo"] > figures["nll"] > 0
    assert (figures["kind"], figures["images"]) == ("grey cross-entropy", 179)
    text = run_latens("evaluate", run, "--split", "validation").stdout
    assert "grey cross-entropy" in text
    assert "180" in text

    for command in (["sample", run, "-n", "5"], ["reconstruct", run, "-n", "5"]):
        out = tmp_path / f"{command[0]}.png"
        done = run_latens(*command, "--out", out)
        assert done.stdout.strip() == str(out), done.stderr
        with Image.open(out) as image:
            assert image.width > 100
    digit = digits.test.pixels[0, 0].numpy()
    Image.fromarray(digit).save(tmp_path / "digit.png")
    done = run_latens("reconstruct", run, "digit.png", "digit.png", "--out", "pairs.png")
    assert done.returncode == 0, done.stderr
    assert run_latens("report", run).stdout.strip() == str(run / "report.html")


def test_a_folder_of_mixed_colour_images_needs_no_option_but_its_path(
    run_latens, tmp_path, colour_folder, monkeypatch
):
    monkeypatch.setattr("latens.training.setup.AUTO_EPOCHS", (2, 2))  # for the test's time alone
    done = run_latens("train", colour_folder, "--no-report")
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.splitlines()[-1]
    record = yaml.safe_load((run / "config.yaml").read_text())
    assert record["data"]["shape"][0] == 3
    assert record["options"]["model"]["likelihood"] == "discretised-logistic"
    assert record["data"]["classes"] == ["disc", "stripes"]
    assert run_latens("sample", run, "-n", 4, "--out", "s.png").returncode == 0
    figures = json.loads(run_latens("evaluate", run, "--json").stdout)
    assert figures["kind"] == "8-bit"
    assert 0 < figures["bits_per_dim"] < 12
    picture = next(colour_folder.rglob("*.jpg"))
    done = run_latens("reconstruct", run, picture, colour_folder / "disc", "--out", "p.png")
    assert done.returncode == 0, done.stderr
    same = json.loads(run_latens("evaluate", run, "--data", colour_folder, "--json").stdout)
    assert same["images"] == 6, "the test split, not the images trained on"
    others = json.loads(
        run_latens(
            "evaluate", run, "--data", colour_folder / "disc", "--split", "all", "--json"
        ).stdout
    )
    assert others["images"] == 30


def test_a_config_file_is_followed_and_the_command_line_goes_before_it(run_latens, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "recipe: mlp\nlatent-dim: 3\nepochs: 1\nbeta: 2.5\nhidden: 32\nreport: false\n"
    )
    done = run_latens("train", "digits", "--config", "c.yaml", "--beta", "0.5", "--out", "a")
    assert done.returncode == 0, done.stderr
    options = yaml.safe_load((tmp_path / "a/config.yaml").read_text())["options"]
    assert (options["model"]["recipe"], options["model"]["latent_dim"]) == ("mlp", 3)
    assert options["model"]["options"] == {"hidden": [32]}
    assert options["objective"]["options"]["beta"] == 0.5
    again = run_latens("train", "digits", "--config", "a/config.yaml", "--out", "b")
    assert again.returncode == 0, again.stderr
    assert yaml.safe_load((tmp_path / "b/config.yaml").read_text())["options"] == options
    one, two = ((tmp_path / run / "model.safetensors").read_bytes() for run in "ab")
    assert one == two


def test_a_training_without_a_report(run_latens, tmp_path):
    done = run_latens("train", "digits", *QUICK, "--out", "run")
    assert done.stdout.splitlines()[-1] == "run"
    assert "report" not in done.stdout
    assert not (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "pictures").exists()


def test_an_objective_of_several_samples_under_a_learned_prior(run_latens, tmp_path):
    """Trained, resumed (there is nothing left to do), measured and sampled."""
    arguments = ["--objective", "iwae", "--samples", "4", "--prior", "mixture", "--components", "5"]
    done = run_latens("train", "digits", *QUICK, *arguments, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "iwae, 4 samples" in done.stderr
    record = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert record["objective"] == {"part": "IWAE", "samples": 4, "label_weight": 0.0}
    assert record["options"]["objective"]["name"] == "iwae"
    assert "--samples 4" in record["command"]
    assert run_latens("train", "--resume", "run").returncode == 0
    figures = json.loads(run_latens("evaluate", "run", "--importance-samples", 8, "--json").stdout)
    assert figures["nll"] < -figures["elbo"]
    assert figures["split"] == "test"
    assert run_latens("sample", "run", "-n", 4).returncode == 0


def test_a_map_of_latents(run_latens, tmp_path):
    arguments = ["--latent-map", "3", "--channels", "4", "--epochs", "1", "--no-report"]
    done = run_latens("train", "digits", *arguments, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert latens.load(tmp_path / "run").latent_shape == (3, 4, 4)
    assert "conv with 3×4×4 latent dimensions" in done.stderr
    for command in ("sample", "reconstruct", "interpolate"):
        assert run_latens(command, "run", "-n", 4, "--out", "x.png").returncode == 0
    figures = json.loads(run_latens("evaluate", "run", "--json").stdout)
    assert len(figures["kl_per_dim"]) == 48


def test_the_shell_completes_choices_and_files(tmp_path):
    (tmp_path / "my-photos").mkdir()
    script = tmp_path / "latens.sh"
    script.write_text(app.generate_completion(shell="bash"))
    for words, found in {"train ''": "my-photos", "train --prior m": "mixture"}.items():
        asked = f"COMP_WORDS=(latens {words}); COMP_CWORD={len(words.split())}"
        program = f"source {script}; {asked}; _latens; echo ${{COMPREPLY[@]}}"
        bash = [shutil.which("bash"), "-c", program]
        done = subprocess.run(bash, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found in done.stdout.split()


def test_recipes_and_data_are_listed(run_latens):
    listing = run_latens("recipes").stdout
    for name in ("mlp", "conv", "beta", "conditional", "semi_supervised", "unet"):
        assert f"\n{name} " in f"\n{listing}"
    assert "mnist-2d: test: −elbo 1" in listing
    assert "5 active latent dimensions of the topmost level" in listing
    assert "2 active latent dimensions\n" in listing
    for kind in catalogue.KINDS:
        for choice in catalogue.choices(kind).values():
            assert f"  {choice.name} " in listing
            for option in choice.options:
                assert f"--{option.replace('_', '-')}" in listing
    listing = run_latens("data").stdout
    for name in ("digits", "mnist", "fashion-mnist", "kmnist", "binarized-mnist", "celeba"):
        assert name in listing


def test_help_names_every_option(run_latens):
    text = " ".join(run_latens("train", "--help-all").stdout.replace("│", " ").split())
    for name in option_names():
        assert f"--{name.replace('_', '-')}" in text
    assert "in nats per latent dimension [objective elbo: 0.0]." in text
    assert "Time budget in minutes" in text


@pytest.mark.parametrize("command", [*(name for name in app if not name.startswith("-")), ""])
def test_help_fits_a_screen(run_latens, monkeypatch, command):
    """Of 80 columns and 42 lines; the commands themselves are a list as long as they are many."""
    monkeypatch.setenv("COLUMNS", "80")
    words = [command] if command else []
    lines = run_latens(*words, "--help").stdout.splitlines()
    assert len(lines) <= (42 if command else 60)
    assert lines[-1].endswith("--help-all")
    assert len(run_latens(*words, "--help-all").stdout.splitlines()) >= len(lines)


def test_options_are_completed_by_the_shell(tmp_path):
    home = {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    words = [sys.executable, "-m", "latens", "--install-completion"]
    done = subprocess.run(words, env=os.environ | home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (script,) = (path for path in tmp_path.rglob("*latens*") if path.is_file())
    asked = (
        f"source {script}; COMP_WORDS=(latens tra); COMP_CWORD=1; _latens; echo ${{COMPREPLY[@]}}"
    )
    found = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["train"], script.read_text()[:2000]


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, contextlib, io\n"
        "import latens\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "from latens.cli import main\n"
        "for argv in (['--help'], ['train', '--help']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main(argv)\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'matplotlib', 'zuko', 'PIL'}\n"
        "sys.exit(','.join(heavy & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package(shell_latens):
    assert shell_latens("--version").stdout.strip() == latens.__version__


# ---- bad options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "minst"], "did you mean 'mnist'?"),
        (["train", "no/such/folder"], "no such file or folder: no/such/folder"),
        (["train", "--recipe", "convv"], "unknown recipe 'convv': did you mean 'conv'?"),
        (["train", "--latent-dims", "3"], "Did you mean --latent-dim?"),
        (["train", "--beta", "-1"], "beta is -1.0: it must be 0 or more"),
        (["train", "--beta", "nan"], "beta is nan: it must be a number"),
        (["train", "--latent-dim", "0"], "latent_dim is 0: it must be above 0"),
        (["train", "--latent-dim", "two"], "--latent-dim is two"),
        (["train", "--epochs", "0"], "epochs is 0"),
        (["train", "--epochs", "1.5"], "--epochs is 1.5: it must be a whole number"),
        (["sample", "run", "-n", "many"], "it must be a whole number"),
        (["train", "--minutes", "-1"], "minutes is -1.0"),
        (["train", "--batch-size", "5000"], "larger than the 1438 training images"),
        (["train", "--precision", "fp8"], '"fp8"'),
        (["train", "--size", "12 parsecs"], "size is 12 parsecs"),
        (["train", "--size", "16"], "--size and --grey are for folders"),
        (
            ["train", "--sigma", "0.1", "--likelihood", "bernoulli"],
            "scale is an option of the likelihood gaussian",
        ),
        (["train", "--components", "5"], "components is an option of the prior mixture"),
        (
            ["train", "--prior", "mixture", "--free-bits", "0.1"],
            "free bits need a KL in closed form",
        ),
        (["train", "--prior", "own"], '"own"'),
        (["train", "--objective", "elb"], '"elb"'),
        (["train", "--objective", "iwae", "--beta", "2"], "beta is an option of the objective"),
        (["train", "--objective", "iwae", "--beta-warmup", "0.1"], "the objective iwae has none"),
        (["train", "--objective", "iwae", "--compile"], "objective iwae cannot be compiled"),
        (["train", "--samples", "0"], "samples is 0: it must be 1 or more"),
        (["train", "--latent-map", "4", "--recipe", "mlp"], "latent_map is for the network conv"),
        (["train", "--latent-map", "0"], "latent_map is 0: it must be above 0"),
        (["train", "--channels", "0"], "channels is 0: it must be above 0"),
        (["train", "--likelihood", "own"], '"own"'),
        (["train", "--validation", "1618"], "cannot hold out"),
        (["train", "--resume", "run"], "no such run directory: run"),
        (["train", "--resume", "run", "--beta", "2"], "give no others"),
        (["train", "--config", "absent.yaml"], "no such file: absent.yaml"),
        (["train", "--seed", "9" * 30], "below 2 to the 63rd"),
        (["train", "--beta", "inf"], "beta is inf: it must be a number below"),
        (["train", "--latent-dim", "100000000000000"], "cannot be built at this size"),
        (["train", "no/such/folder", "--recipe", "covn"], "did you mean 'conv'"),
        (["trian"], 'Did you mean "train"?'),
        (["evaluate"], "RUN is missing: see latens evaluate --help"),
        (["embed", "mnist-2d"], "--out is missing: see latens embed --help"),
        (
            ["train", "digits", "--range", "0,9"],
            "--range is for your own images: digits has 8 bits",
        ),
        (["evaluate", "run"], "no such run directory: run"),
        (["sample", "run"], "no such run directory: run"),
        (["reconstruct", "run"], "no such run directory: run"),
        (["report", "run"], "no such run directory: run"),
        (["generate", "run", "--out", "x"], "no such run directory: run"),
        (["edit", "run", "x.png", "--label", "1"], "no such run directory: run"),
        (["export", "run", "--out", "x"], "Models that come with latens: "),
        (["train", "--network", "cnn"], '"cnn"'),
        (["train", "--recipe", "mlp", "--network", "conv"], "leave out --network conv"),
        (["train", "--hidden", "64"], "hidden is no option of the network conv"),
        (["train", "--recipe", "mlp", "--hidden", "64,x"], "hidden is 64,x: it must be widths"),
        (["train", "--recipe", "mlp", "--channels", "8"], "channels is no option of"),
        (["train", "--beta-warmup", "1.5"], "beta_warmup is 1.5: it must be in [0, 1]"),
        (["train", "--beta-step", "0.3", "--minutes", "1"], "beta_step needs epochs"),
        (["train", "--beta-cycles", "4"], "beta_cycles needs beta_warmup"),
        (["train", "--label-weight", "3"], "label_weight is for a model with a classifier"),
        (["train", "--labels", "5000"], "cannot keep 5000 labels: 1438 images have one"),
        (["train", "--recipe", "semi_supervised", "--labels", "0"], "labels is 0"),
        (["train", "celebA"], "did you mean 'celeba'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(run_latens, tmp_path, arguments, words):
    expect_refusal(run_latens(*arguments), words, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latent_dims: 3\n", "unknown option 'latent_dims': did you mean 'latent_dim'?"),
        ("beta: -1\n", "beta is -1"),
        ("epochs: 1.5\n", "1.5"),
        ("grey: 3\n", "3"),
        ("options: 3\n", "its options are no names and values"),
        ("beta: [1\n", "is not YAML"),
        ("just words\n", "holds no 'name: value' lines"),
        ("beta: much\n", "much"),
        ("precision: fp8\n", "fp8"),
    ],
)
def test_bad_config_files(run_latens, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    expect_refusal(run_latens("train", "digits", "--config", "c.yaml"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_ctrl_c_outside_of_a_training_is_one_line(run_latens, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("latens.api.train", interrupt)
    done = run_latens("train", "digits", *QUICK)
    assert (done.returncode, done.stderr) == (130, "latens: error: stopped\n")


def test_an_existing_out_is_left_alone(run_latens, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    expect_refusal(run_latens("train", "digits", *QUICK, "--out", "mine"), "mine exists already")
    assert (tmp_path / "mine" / "file").read_text() == "precious"


def test_images_smaller_than_the_network_allows(run_latens, tmp_path, array):
    np.save(array, np.zeros((40, 5, 7), np.uint8))
    expect_refusal(
        run_latens("train", array, "--batch-size", "8"), "too small for a conv", tmp_path
    )


def test_labels_and_images_from_python(tmp_path):
    with pytest.raises(latens.LatensError, match="unknown option 'latentdim'"):
        latens.train("digits", out=tmp_path / "run", latentdim=3)
    assert list(tmp_path.iterdir()) == []


# ---- bad data from the command line (the kinds of files are in data/test_files.py) ------------


def test_bad_images(run_latens, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    expect_refusal(run_latens("train", folder), "no images in", tmp_path)
    (folder / "text.png").write_text("I am no image")
    expect_refusal(run_latens("train", folder), "text.png is not an image", tmp_path)


def test_bad_arrays(run_latens, tmp_path, array):
    np.save(array, np.full((40, 8, 8), 2.0))
    expect_refusal(run_latens("train", array), "scale them to [0, 1]", tmp_path)
    np.save(array, np.full((40, 8, 8), np.nan))
    expect_refusal(run_latens("train", array), "holds NaN", tmp_path)
    np.save(array, np.zeros((0, 8, 8)))
    expect_refusal(run_latens("train", array), "contains no images", tmp_path)


def test_a_data_folder_that_does_not_exist(run_latens, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENS_DATA", "absent")
    done = run_latens("train", "mnist")
    expect_refusal(done, "LATENS_DATA is 'absent', which is not a folder", tmp_path)


def test_no_network(run_latens, tmp_path, tmp_path_factory, monkeypatch):
    env = {
        "LATENS_DATA": str(tmp_path_factory.mktemp("cache")),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    expect_refusal(run_latens("train", "kmnist"), "cannot download kmnist/", tmp_path)
    there = Path(env["LATENS_DATA"]) / "kmnist" / "train-images-idx3-ubyte.gz"
    there.parent.mkdir(exist_ok=True)
    there.write_bytes(b"gzipped anew")
    done = run_latens("train", "kmnist")
    expect_refusal(done, f"or name {there.parent} in its place", tmp_path)
    assert there.read_bytes() == b"gzipped anew"


# ---- bad run directories ---------------------------------------------------------------------


@pytest.fixture
def run(digits_run, tmp_path_factory):
    """A copy of a finished run, to be spoiled; without its film, which a report takes long over."""
    copy = tmp_path_factory.mktemp("spoiled") / "run"
    shutil.copytree(digits_run.path, copy, ignore=shutil.ignore_patterns("film"))
    return copy


@pytest.mark.parametrize("name", ["config.yaml", "config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "truncated", "foreign"])
def test_spoiled_runs(run_latens, run, tmp_path, name, how):
    path = run / name
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(500))
    done = run_latens("sample", run, "--out", "s.png")
    expect_refusal(done, name, tmp_path)


def test_a_pickle_is_never_opened(run_latens, run, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    for content in (pickle.dumps(Evil()), None):
        if content is None:
            torch.save({"weights": Evil()}, run / "model.safetensors")
        else:
            (run / "model.safetensors").write_bytes(content)
        expect_refusal(run_latens("sample", run, "--out", "s.png"), "is a pickle", tmp_path)


def test_weights_of_another_model(run_latens, run, tmp_path):
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(3)}, run / "model.safetensors")
    expect_refusal(
        run_latens("sample", run, "--out", "s.png"), "does not fit the architecture", tmp_path
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: 1\n"),
        ("config.yaml", "command: x\noptions: {}\ndata: 3\nparameters: 1\nversions: {}\n"),
        ("config.yaml", "command: x\noptions: 3\ndata: {}\nparameters: 1\nversions: {}\n"),
        ("config.yaml", "[" * 100_000),
        ("metrics.jsonl", '{"epoch": 1, "images": 3, "seconds": 1, "train": 3, "validation": {}}'),
        ("metrics.jsonl", '{"epoch": 1, "images": 3, "seconds": 1, "train": {}, "validation": {}}'),
        ("figures.json", '{"elbo": null}'),
        ("config.json", '{"model": {"part": "VAE", "encoder": 3, "decoder": 3}}'),
        (
            "config.json",
            '{"model": {"part": "MLPEncoder", "image_shape": [1, 8, 8], "hidden": []}}',
        ),
        ("config.json", "[" * 100_000),
        ("metrics.jsonl", '{"a": 1}\n'),
        ("metrics.jsonl", "3\n"),
        ("figures.json", "[]"),
        ("config.json", "[]"),
        ("config.json", '{"model": {"part": "VAE"}}'),
        ("config.json", '{"model": {"part": "MLPEncoder", "image_shape": "what"}}'),
    ],
)
def test_files_of_another_kind(run_latens, run, name, content):
    (run / name).write_text(content)
    expect_refusal(run_latens("report", run), name)


def test_a_part_that_is_no_vae(run_latens, run, tmp_path):
    part = latens.MLPEncoder((1, 8, 8))
    write_model(run, part, {})
    expect_refusal(
        run_latens("sample", run, "--out", "s.png"), "holds a MLPEncoder, not a VAE", tmp_path
    )


def test_a_folder_that_is_no_run(run_latens, tmp_path_factory):
    expect_refusal(run_latens("evaluate", tmp_path_factory.mktemp("empty")), "is no run directory")


def test_damaged_metrics(run_latens, run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 9, "tra')
    assert len(latens.Run.open(run).metrics) == 8  # it may be being written
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n")
    expect_refusal(run_latens("report", run), "line 9 is not JSON")


def test_data_of_another_shape(run_latens, run, array):
    np.save(array, np.zeros((40, 9, 9), np.uint8))
    expect_refusal(
        run_latens("evaluate", run, "--data", array), "reads images of (C, H, W) (1, 8, 8)"
    )


# ---- where nothing can be written ------------------------------------------------------------


def test_a_folder_that_cannot_be_written(run_latens, tmp_path):
    (tmp_path / "file").write_text("no folder")
    expect_refusal(
        run_latens("train", "digits", *QUICK, "--out", "file/run"), "cannot read or write"
    )
    expect_refusal(
        run_latens("train", "digits", *QUICK, "--out", "/proc/run"), "cannot read or write"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["sample", "reconstruct"])
@pytest.mark.parametrize(
    ("out", "words"), [("/proc/x.png", "cannot"), ("no/x.png", "no folder no"), ("x.gif", ".png")]
)
def test_a_picture_that_cannot_be_written(run_latens, run, tmp_path, command, out, words):
    expect_refusal(run_latens(command, run, "--out", out), words, tmp_path)


def test_a_full_disk_leaves_no_half_run(shell_latens, tmp_path):
    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    done = shell_latens("train", "digits", *QUICK, "--out", "run", preexec_fn=small_files_only)
    expect_refusal(done, "cannot read or write", tmp_path)


@pytest.mark.usefixtures("few_frames")
def test_a_disk_that_fills_up_keeps_the_last_state(shell_latens, run_latens, run, tmp_path):
    """The report no longer fits, but model and checkpoint do not suffer."""
    before = (run / "model.safetensors").read_bytes()

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = shell_latens("report", run, preexec_fn=little_room)
    expect_refusal(done, "cannot read or write")
    assert (run / "model.safetensors").read_bytes() == before
    assert not list(run.rglob(".*"))
    assert run_latens("report", run).returncode == 0


@pytest.mark.parametrize("number", ["0", "-3"])
def test_a_number_of_pictures_below_one(run_latens, run, tmp_path, number):
    expect_refusal(run_latens("sample", run, "-n", number), "1 or more", tmp_path)
    expect_refusal(run_latens("reconstruct", run, "-n", number), "1 or more", tmp_path)


def test_noise_that_cannot_be(run_latens, run, tmp_path):
    expect_refusal(
        run_latens("sample", run, "--temperature", "inf"), "temperature is inf", tmp_path
    )
    expect_refusal(run_latens("sample", run, "--seed", "9" * 30), "seed", tmp_path)
    expect_refusal(run_latens("evaluate", run, "--seed", "9" * 30), "seed", tmp_path)


def test_other_images_are_all_measured_unless_they_have_a_test_split(run_latens, run, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "digits"  # called like a data set, which it is not
    folder.mkdir()
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(folder / f"{i}.png")
    done = run_latens("evaluate", run, "--data", "./digits", "--json")
    assert json.loads(done.stdout)["images"] == 7
    done = run_latens("evaluate", run, "--data", "digits", "--json")
    assert json.loads(done.stdout)["images"] == 179
    expect_refusal(
        run_latens("evaluate", run, "--data", "./digits", "--split", "test"), "no test split"
    )
    images = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=np.arange(30) % 3, x_test=images[:4])
    done = run_latens("evaluate", run, "--data", "x.npz", "--json")
    assert json.loads(done.stdout)["images"] == 4
    done = run_latens("evaluate", run, "--data", "x.npz", "--split", "all", "--json")
    assert json.loads(done.stdout)["images"] == 34


def test_a_single_importance_sample_has_no_error(run_latens, run):
    figures = json.loads(run_latens("evaluate", run, "--importance-samples", 1, "--json").stdout)
    assert figures["nll_stderr"] is None
    text = run_latens("evaluate", run, "--importance-samples", 2).stdout
    assert [line for line in text.splitlines() if "nll" in line and "grey cross-entropy" in line]


@pytest.mark.parametrize("name", ["a$^$b.npy", "日本.npy", "<b>&'.npy"])
def test_any_name_can_be_shown(run_latens, tmp_path, array, name):
    shutil.copy(array, tmp_path / name)
    done = run_latens("train", name, *QUICK, "--out", "run")
    assert done.returncode == 0, done.stderr


def test_an_image_that_is_none_among_those_to_reconstruct(run_latens, run, tmp_path):
    expect_refusal(run_latens("reconstruct", run, "absent.png"), "no such file or folder", tmp_path)


# ---- labels ----------------------------------------------------------------------------------


def test_labels_that_are_needed_and_missing(run_latens, tmp_path, array):
    for recipe in ("conditional", "semi_supervised"):
        done = run_latens("train", array, "--recipe", recipe)
        expect_refusal(done, f"the recipe {recipe} needs labels, and these images have none")
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_does_not_exist_is_told_with_those_that_do(run_latens, run, tmp_path):
    every = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    expect_refusal(run_latens("sample", run, "--label", "ten"), every, tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    expect_refusal(run_latens("edit", run, tmp_path / "x.png", "--label", "ten"), every)
    expect_refusal(run_latens("edit", run, tmp_path / "x.png", "--attribute", "Bald"), "--label")
    expect_refusal(run_latens("edit", run, tmp_path / "x.png"), "either --attribute or --label")
    done = run_latens("edit", run, tmp_path / "x.png", "--label", "1", "--steps", "1")
    expect_refusal(done, "at least 2")


def test_a_model_that_cannot_tell_its_samples(run_latens, colour_folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(colour_folder.rglob("*.png"))):
        shutil.copy(path, flat / f"{i}.png")
    assert run_latens("train", flat, *QUICK, "--out", "run").returncode == 0
    expect_refusal(run_latens("sample", "run", "--with-labels"), "cannot tell the class")
    expect_refusal(run_latens("sample", "run", "--label", "1"), "knows no labels")
    expect_refusal(
        run_latens("generate", "run", "--confidence", "0.5", "--out", "x"), "cannot tell"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"flat", "run"}


def test_a_generated_set_is_trained_on(run_latens, run, tmp_path):
    done = run_latens("generate", run, "-n", "57", "--out", "new")
    assert done.stdout.strip() == "new", done.stderr
    counts = [len(list((tmp_path / "new" / str(digit)).iterdir())) for digit in range(10)]
    assert counts == [6] * 7 + [5] * 3
    done = run_latens(
        "train", "new", "--recipe", "conditional", "--network", "mlp", *QUICK[2:], "--out", "again"
    )
    assert done.returncode == 0, done.stderr
    record = yaml.safe_load((tmp_path / "again/config.yaml").read_text())
    assert record["data"]["classes"] == [str(digit) for digit in range(10)]
    assert record["data"]["shape"] == [1, 8, 8]
    expect_refusal(run_latens("generate", run, "--out", "new"), "exists already")
    expect_refusal(run_latens("generate", run, "-n", "0", "--out", "x"), "1 or more")
    assert not (tmp_path / "x").exists()


def test_pictures_of_labels(run_latens, run, tmp_path, digits):
    Image.fromarray(digits.test.pixels[0, 0].numpy()).save(tmp_path / "digit.png")
    for command in (["sample", run, "--label", "3"], ["edit", run, "digit.png", "--label", "8"]):
        done = run_latens(*command, "--out", "out.png")
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / "out.png") as image:
            assert image.width > 100


def test_neighbours_and_the_classifier_are_measured(run_latens, tmp_path):
    done = run_latens(
        "train",
        "digits",
        "--recipe",
        "semi_supervised",
        "--network",
        "mlp",
        *QUICK[2:],
        "--out",
        "run",
    )
    assert "right" in done.stdout
    figures = json.loads(run_latens("evaluate", "run", "--neighbours", "5", "--json").stdout)
    assert 0 <= figures["accuracy"] <= 1
    assert 0 <= figures["neighbour_accuracy"] <= 1
    assert "of the nearest images" in run_latens("evaluate", "run", "--neighbours", "5").stdout
    assert run_latens("sample", "run", "--with-labels").returncode == 0
    done = run_latens("evaluate", "run", "--neighbours", "0")
    expect_refusal(done, "0 neighbours")


@pytest.mark.usefixtures("few_frames")
def test_an_exported_model_is_half_as_large_and_as_good(run_latens, run, tmp_path):
    done = run_latens("export", run, "--out", "small")
    assert done.stdout.strip() == "small", done.stderr
    small, whole = tmp_path / "small/model.safetensors", run / "model.safetensors"
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    one, two = (json.loads(run_latens("evaluate", r, "--json").stdout) for r in (run, "small"))
    assert two["elbo"] == pytest.approx(one["elbo"], abs=0.02)
    card = (tmp_path / "small/README.md").read_text()
    assert "latens train digits" in card
    assert "minutes" in card
    for name in ("config.yaml", "metrics.jsonl", "figures.json", "config.json"):
        assert (tmp_path / "small" / name).is_file()
    expect_refusal(run_latens("export", run, "--out", "small"), "exists already")
    assert run_latens("report", "small", "--out", "page").returncode == 0
    assert (tmp_path / "page/report.html").is_file()
    done = run_latens("export", run, "--out", "smaller", "--bits", "8")
    assert done.returncode == 0, done.stderr
    smaller = tmp_path / "smaller/model.safetensors"
    assert smaller.stat().st_size < 0.35 * whole.stat().st_size
    three = json.loads(run_latens("evaluate", "smaller", "--json").stdout)
    assert three["elbo"] == pytest.approx(one["elbo"], abs=0.5)
    told = json.loads((tmp_path / "smaller/figures.json").read_text())
    assert told["elbo"] == pytest.approx(three["elbo"], abs=1e-4)
    expect_refusal(run_latens("export", run, "--out", "no", "--bits", "7"), "8, 16, 32")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--projection umap", "umap-learn: install it, or take tsne"),
        ("--projection tsn", "tsn"),
        ("--attribute 11", "have no attributes to colour by"),
        ("--projection tsne --attribute x", "have no attributes"),
        ("--plane 1 4", "give two of 0 to 3"),
        ("--plane 1 1", "give two of 0 to 3"),
        ("--plane 1", "requires 2"),
    ],
)
def test_reports_that_cannot_be(run_latens, run, tmp_path, words, told):
    finished = run_latens("report", run, *words.split(), "--out", tmp_path / "out")
    expect_refusal(finished, told)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("few_frames")
def test_a_report_along_chosen_dimensions(run_latens, run, tmp_path):
    finished = run_latens("report", run, "--plane", "3", "1", "--out", tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    assert "along z[3] and z[1], all others 0" in (tmp_path / "out" / "report.html").read_text()


def test_interpolations(run_latens, run, tmp_path, digits):
    for i in range(3):
        Image.fromarray(digits.test.pixels[i, 0].numpy()).save(tmp_path / f"{i}.png")
    both = [tmp_path / "0.png", tmp_path / "1.png"]
    for options in ([], ["--spherical"], ["--steps", "3"]):
        finished = run_latens("interpolate", run, *both, *options)
        assert finished.returncode == 0, finished.stderr
        with Image.open(tmp_path / "interpolation.png") as image:
            assert image.width > 5 * 56
    assert run_latens("interpolate", run, "-n", "4", "--out", "tests.png").returncode == 0
    expect_refusal(
        run_latens("interpolate", run, *both, tmp_path / "2.png"), "A and B, and here are 3"
    )
    expect_refusal(run_latens("interpolate", run, *both, "--steps", "1"), "at least 2")
    expect_refusal(run_latens("interpolate", run, "-n", "90"), "90 pairs need 180 test images")


def test_errors_are_shown_on_request(run_latens, run, tmp_path):
    heights = []
    for options in ([], ["--errors"]):
        assert run_latens("reconstruct", run, "-n", "4", *options).returncode == 0
        with Image.open(tmp_path / "pairs.png") as image:
            heights.append(image.height)
    assert heights[1] > 1.3 * heights[0]
