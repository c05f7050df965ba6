"""Pictures of runs at the edges of what can be: each is drawn, or says why not."""

import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens.analysis.traversals import lattice, manifold
from latens.report.contents import SECTIONS
from latens.report.context import ReportContext
from latens.report.html import draw_pictures
from latens.report.sections.manifolds import grid_side, manifold_image, manifolds_of
from latens.run.data import data_of
from latens.run.directory import best_row

pytestmark = pytest.mark.usefixtures("few_frames")


def trained(tmp_path, images, labels=None, **options):
    arrays = {"images": images} | ({} if labels is None else {"labels": labels})
    np.savez(tmp_path / "set.npz", **arrays)
    options = {"epochs": 2, "latent_dim": 2} | (options or {"recipe": "mlp", "hidden": "16"})
    return latens.train(tmp_path / "set.npz", out=tmp_path / "run", report=False, **options)


def pictures_of(run, *names):
    """The files that these sections leave, or all without films."""
    names = names or [section.name for section in SECTIONS[:-2]]
    sections = [section for section in SECTIONS if section.name in names]
    folder = run.path / "pictures"
    folder.mkdir(exist_ok=True)
    draw_pictures(sections, ReportContext(run, data_of(run)), folder)
    return {path.name for path in folder.iterdir()}


def noise(count, shape=(8, 8)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("dims", [1, 3])
def test_few_latent_dimensions(tmp_path, dims):
    run = trained(tmp_path, noise(40), recipe="mlp", hidden="16", latent_dim=dims)
    names = pictures_of(run)
    expected = {"latent-space.png", "manifold.png", "traversals.png", "histograms.png"}
    assert expected <= names
    assert ("latent-space-3d.gif" in names) == (dims > 2)
    assert not any(name.startswith(("traversals-2", "histograms-2")) for name in names)


@pytest.fixture(scope="session")
def large_map(tmp_path_factory):
    """A run with a map of 64×8×8 latents, 4,096 of them, and more images than a batch."""
    options = {"latent_map": 64, "latent_dim": None, "channels": 4, "film": False, "epochs": 2}
    folder = tmp_path_factory.mktemp("map")
    return trained(folder, noise(20, (16, 16)), recipe="conv", **options)


@pytest.fixture
def histograms_of(monkeypatch):
    """The dimensions on each sheet of histograms; neither they nor a turn are drawn."""
    dims_drawn = []

    def histograms(z, dims, title, prior, names):
        dims_drawn.append([names[d] for d in dims])
        return Image.new("RGB", (9, 9))

    monkeypatch.setattr("latens.pictures.histograms", histograms)
    monkeypatch.setattr("latens.pictures.turning", lambda *_: [Image.new("RGB", (9, 9))])
    return dims_drawn


def test_of_many_latent_dimensions_those_with_the_largest_kl_are_shown(large_map, histograms_of):
    """Two sheets of each kind, and a film of twenty."""
    names = pictures_of(large_map, "Latent space", "Traversals", "Curves")
    for sheet in ("histograms", "traversals"):
        found = {name for name in names if name.startswith(sheet) and name.endswith(".png")}
        assert found == {f"{sheet}.png", f"{sheet}-2.png"}
    per_dim = np.array(best_row(large_map.metrics)["validation"]["kl_per_dim"])
    places = np.argsort(-per_dim, kind="stable")[:80]
    largest = [f"z[{d // 64},{d // 8 % 8},{d % 8}]" for d in places]
    assert histograms_of == [largest[:40], largest[40:]]
    section = next(section for section in SECTIONS if section.name == "Traversals")
    captions = [
        picture.caption for picture in section.draw(ReportContext(large_map, data_of(large_map)))
    ]
    assert "1 to 20 of 4,096 by KL" in captions[0]
    assert "20 of 4,096 latent dimensions" in captions[-1]


@pytest.mark.usefixtures("histograms_of")
def test_a_report_decodes_as_much_of_thousands_of_dimensions_as_of_a_few(tmp_path, large_map):
    """All sections but the films: what is decoded and how many pictures there are is bounded."""

    def decoded(run):
        context, counts = ReportContext(run, data_of(run)), []
        decode = context.vae.decode
        context.vae.decode = lambda z, y=None: counts.append(len(z)) or decode(z, y)
        shown = [picture for section in SECTIONS[:-2] for picture in section.draw(context)]
        del context.vae.decode
        return sum(counts), len(shown)

    options = {"latent_dim": 41, "hidden": "16", "film": False, "epochs": 2}
    few = decoded(trained(tmp_path, noise(20, (16, 16)), recipe="mlp", **options))
    assert decoded(large_map) == few


def test_a_flow_ranks_dimensions_by_how_their_means_vary(tmp_path):
    """Its KL has no closed form for each dimension."""
    options = {"posterior": "iaf", "iaf_steps": 1, "iaf_width": 8, "hidden": "16", "film": False}
    run = trained(tmp_path, noise(60), recipe="mlp", latent_dim=42, epochs=2, **options)
    context = ReportContext(run, data_of(run))
    means = context.vae.embed(context.test.unit())
    assert (means.var(0)[context.ranked_dims].diff() <= 0).all()
    section = next(section for section in SECTIONS if section.name == "Traversals")
    caption = next(section.draw(context)).caption
    assert "1 to 20 of 42 by variance of the mean z" in caption
    assert "KL" not in caption


def test_a_few_images(tmp_path):
    run = trained(tmp_path, noise(10))
    names = pictures_of(run)
    assert {"latent-space.png", "reconstructions-validation.png"} <= names
    assert "interpolations.png" not in names, "one test image has no second"


def test_one_class(tmp_path):
    run = trained(tmp_path, noise(40), np.zeros(40, dtype=np.int64))
    names = pictures_of(run, "Samples", "From class to class")
    assert "samples-by-class.png" in names
    assert "transitions.gif" not in names, "there is nowhere to go"


@pytest.mark.whole
def test_two_hundred_classes(tmp_path):
    run = trained(tmp_path, noise(1000), np.arange(1000) % 200)
    shown = pictures_of(run, "Samples", "From class to class", "Latent space")
    assert {"samples-by-class.png", "transitions.gif", "latent-space.png"} <= shown
    for path in (run.path / "pictures").glob("*.png"):
        with Image.open(path) as image:
            assert max(image.size) < 3000, path.name


def test_images_without_classes_have_no_colours(tmp_path):
    run = trained(tmp_path, noise(40))
    assert "samples-by-class.png" not in pictures_of(run, "Samples")
    assert ReportContext(run, data_of(run)).colours[0] is None


def test_colour_images_of_odd_size(tmp_path):
    run = trained(tmp_path, noise(40, (17, 23, 3)), recipe="conv", channels=4, features=8)
    names = pictures_of(run, "Manifold", "Inside the networks")
    assert {"manifold.png", "film-encoder-1.gif"} <= names


def test_classes_whose_names_no_file_can_have(tmp_path):
    run = trained(tmp_path, noise(40), np.arange(40) % 2, recipe="conditional", network="mlp")
    record = run.record | {"data": run.record["data"]}
    from dataclasses import replace

    data = replace(data_of(run), classes=("a/b", "..\\c"))
    names = [name for name, _, _ in manifolds_of(ReportContext(latens.Run(run.path, record), data))]
    assert names == ["manifold-a-b", "manifold----c"]
    alike = replace(data, classes=("A/b", "a-B", "a-b-2", "a b"))
    names = [name for name, _, _ in manifolds_of(ReportContext(run, alike))]
    assert len({name.casefold() for name in names}) == 4


def test_manifolds_show_what_each_place_decodes_to(digits_run, digits):
    context = ReportContext(digits_run, digits)
    points = lattice(grid_side(context))
    image = manifold_image(context, points, None, "a title")
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    left, top, right, bottom = image.info["box"]
    sheet = pixels[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ]
    side, scale = len(points), sheet.shape[0] // (len(points) * 8)
    images = manifold(digits_run.vae, points, context.dims_shown)
    for row, column in ((0, 0), (3, side - 1), (side - 1, 5)):
        found = sheet[row * 8 * scale :: scale, column * 8 * scale :: scale][:8, :8, 0]
        expected = (images[row, column, 0] * 255).round()
        assert np.abs(found - expected.numpy()).max() <= 1


def test_dimensions_are_sorted_by_their_kl(digits_run, digits):
    per_dim = torch.tensor(digits_run.metrics[-1]["validation"]["kl_per_dim"])
    order = ReportContext(digits_run, digits).ranked_dims
    assert (per_dim[order].diff() <= 0).all()


def test_attributes_colour_the_plane_and_have_a_picture(tmp_path, digits_run):
    """A run on attributes is made of digits: odd ones, and large ones."""
    from dataclasses import replace

    from latens.data import load_data
    from latens.evaluation.labels import label_statistics

    data = load_data("digits")

    def attributes(images):
        y = torch.stack((images.labels % 2, (images.labels > 4).long()), 1)
        return replace(images, labels=y)

    splits = {name: attributes(data.split(name)) for name in ("train", "validation", "test")}
    data = replace(data, **splits, classes=(), attributes=("Odd", "Large"))
    run = latens.Run.open(digits_run.path)
    names = data.attributes
    run.vae.about["labels"] = label_statistics(run.vae, data.train, names, False).as_dict()
    labels, names, by = ReportContext(run, data, attribute="large").colours
    assert (by, tuple(names)) == ("Large", ("not Large", "Large"))
    assert labels.tolist() == (data.test.labels[:, 1]).tolist()
    assert ReportContext(run, data).colours[2] in ("Odd", "Large")
    section = next(section for section in SECTIONS if section.name == "Attributes")
    (picture,) = section.draw(ReportContext(run, data))
    assert picture.name == "attributes"
    with pytest.raises(
        latens.LatensError, match=r"unknown attribute 'Bald': there are: Large, Odd$"
    ):
        _ = ReportContext(run, data, attribute="Bald").colours


def test_every_section_has_an_anchor_of_its_own_and_advice():
    assert len({section.anchor for section in SECTIONS}) == len(SECTIONS)
    for section in SECTIONS:
        assert len(section.advice) > 60


# ---- other models ----------------------------------------------------------------------------

MODELS = {
    "a prior made of posteriors": {"prior": "vamp", "components": 5},
    "a prior for each label": {"prior": "conditional"},
    "a flow for a prior": {"prior": "flow", "transforms": 1, "flow_width": 8},
    "a flow for a posterior": {"posterior": "iaf", "iaf_steps": 1, "iaf_width": 8},
    "an objective without beta": {"objective": "iwae", "samples": 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_report_of_any_model(tmp_path, name):
    """Every section but the films draws what applies, and the page is written."""
    options = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 2} | MODELS[name]
    run = trained(tmp_path, noise(60), np.arange(60) % 3, **options)
    names = pictures_of(run)
    expected = {"samples.png", "samples-by-class.png", "latent-space.png", "histograms.png"}
    assert expected | {"manifold.png", "traversals.png", "transitions.gif", "curves.png"} <= names
    # Without a KL in closed form there are no bars of it, and no quantiles of another prior
    closed = run.figures["kl_per_dim"] is not None
    assert ("kl-per-dim.png" in names) == closed
    assert ("manifold-quantiles.png" in names) == ("prior" not in MODELS[name])
    assert run.objective in run.title


def test_films_and_curves_of_an_objective_without_beta(tmp_path):
    options = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 2, "objective": "iwae"}
    run = trained(tmp_path, noise(60), **options)
    assert (run.beta, run.objective) == ("", "iwae, 8 samples")
    assert not any("beta" in row for row in run.metrics)
    page = latens.api.report(run.path).read_text()
    assert "iwae, 8 samples" in page
    assert "β" not in page
    assert (run.path / "pictures" / "film-latent-space.gif").is_file()


def test_a_map_of_latents_has_every_picture(tmp_path):
    run = trained(
        tmp_path,
        noise(40),
        np.arange(40) % 2,
        recipe="conv",
        latent_map=2,
        latent_dim=None,
        channels=4,
        epochs=2,
    )
    names = pictures_of(run, "Samples", "Latent space", "Manifold", "Traversals")
    assert {"samples.png", "latent-space.png", "manifold.png", "traversals.png"} <= names
    assert "2×4×4 dims" in run.title


def test_channels_keep_their_scale_over_a_film_beside_the_image():
    """The last epoch's outputs are twice the first's, and 0 in the second channel."""
    from latens.report.sections.films import _layer_names, _sheets

    first = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    first[:, 1] = 0
    x = torch.rand(1, 1, 8, 8)
    one, two = _sheets(x, np.concatenate((first, 2 * first)))
    assert one.shape == (3, 3, 8, 8)
    assert torch.equal(one[0], x[0].expand(3, 8, 8))
    assert torch.equal(one[2], two[2])
    assert two[1, :, 0, 0].tolist() != one[1, :, 0, 0].tolist(), "half as far from zero, and paler"
    assert two[1, 2, 0, 0] > two[1, 0, 0, 0], "blue below zero"
    layers = ["encoder.levels.0.1", "encoder.levels.1.1", "decoder.decoder.levels.0.0.conv1"]
    assert list(_layer_names(layers).values()) == ["encoder 1", "encoder 2", "decoder 1"]
