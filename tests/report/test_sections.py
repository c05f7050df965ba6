"""Pictures of runs at the edges of what can be: each is drawn, or says why not."""

import numpy as np
import pytest
import torch
from latens.analysis.views import lattice, manifold
from PIL import Image

import latens
from latens.api import data_of
from latens.report.context import Subject
from latens.report.sections import SECTIONS, manifold_image, manifolds_of, side_of


def trained(tmp_path, images, labels=None, **options):
    arrays = {"images": images} | ({} if labels is None else {"labels": labels})
    np.savez(tmp_path / "set.npz", **arrays)
    options = {"epochs": 2, "latent_dim": 2} | (options or {"recipe": "mlp", "hidden": "16"})
    return latens.train(tmp_path / "set.npz", out=tmp_path / "run", **options)


def pictures_of(run):
    return {path.name for path in (run.path / "pictures").iterdir()}


def noise(count, shape=(8, 8)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("dims", [1, 3, 300])
def test_any_number_of_latent_dimensions(tmp_path, dims):
    run = trained(tmp_path, noise(40), recipe="mlp", hidden="16", latent_dim=dims)
    names = pictures_of(run)
    expected = {"latent-space.png", "manifold.png", "traversals.png", "histograms.png"}
    assert expected <= names
    assert ("latent-space-3d.gif" in names) == (dims > 2)
    assert len(
        [name for name in names if name.startswith("traversals-") and name.endswith("png")]
    ) == ((dims - 1) // 20)
    assert ("histograms-8.png" in names) == (dims == 300)


def test_a_few_images(tmp_path):
    run = trained(tmp_path, noise(10))
    assert {"latent-space.png", "reconstructions-validation.png"} <= pictures_of(run)
    assert "interpolations.png" not in pictures_of(run), "one test image has no second"


def test_one_class(tmp_path):
    run = trained(tmp_path, noise(40), np.zeros(40, dtype=np.int64))
    assert "samples-by-class.png" in pictures_of(run)
    assert "transitions.gif" not in pictures_of(run), "there is nowhere to go"


def test_two_hundred_classes(tmp_path):
    run = trained(tmp_path, noise(1000), np.arange(1000) % 200)
    assert {"samples-by-class.png", "transitions.gif", "latent-space.png"} <= pictures_of(run)
    for path in (run.path / "pictures").glob("*.png"):
        with Image.open(path) as image:
            assert max(image.size) < 3000, path.name


def test_images_without_classes_have_no_colours(tmp_path):
    run = trained(tmp_path, noise(40))
    assert "samples-by-class.png" not in pictures_of(run)
    assert Subject(run, data_of(run)).colours[0] is None


def test_colour_images_of_odd_size(tmp_path):
    run = trained(tmp_path, noise(40, (17, 23, 3)), recipe="conv", channels=4, features=8)
    assert {"manifold.png", "film-encoder-levels-0-1.gif"} <= pictures_of(run)
    assert (run.path / "report.html").stat().st_size < 15e6


def test_classes_whose_names_no_file_can_have(tmp_path):
    run = trained(tmp_path, noise(40), np.arange(40) % 2, recipe="conditional", network="mlp")
    record = run.record | {"data": run.record["data"]}
    from dataclasses import replace

    data = replace(data_of(run), classes=("a/b", "..\\c"))
    names = [name for name, _, _ in manifolds_of(Subject(latens.Run(run.path, record), data))]
    assert names == ["manifold-a-b", "manifold----c"]


def test_manifolds_show_what_each_place_decodes_to(digits_run, digits):
    subject = Subject(digits_run, digits)
    points = lattice(side_of(subject))
    image = manifold_image(subject, points, None, "a title")
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    left, top, right, bottom = image.info["box"]
    sheet = pixels[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ]
    side, scale = len(points), sheet.shape[0] // (len(points) * 8)
    images = manifold(digits_run.vae, points, subject.dims_shown)
    for row, column in ((0, 0), (3, side - 1), (side - 1, 5)):
        found = sheet[row * 8 * scale :: scale, column * 8 * scale :: scale][:8, :8, 0]
        expected = (images[row, column, 0] * 255).round()
        assert np.abs(found - expected.numpy()).max() <= 1


def test_dimensions_are_sorted_by_their_kl(digits_run, digits):
    per_dim = torch.tensor(digits_run.metrics[-1]["validation"]["kl_per_dim"])
    order = Subject(digits_run, digits).by_kl
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
    labels, names, by = Subject(run, data, attribute="large").colours
    assert (by, tuple(names)) == ("Large", ("not Large", "Large"))
    assert labels.tolist() == (data.test.labels[:, 1]).tolist()
    assert Subject(run, data).colours[2] in ("Odd", "Large")
    section = next(section for section in SECTIONS if section.name == "From class to class")
    (picture,) = section.draw(Subject(run, data))
    assert picture.name == "attributes"
    with pytest.raises(
        latens.LatensError, match=r"unknown attribute 'Bald': there are: Large, Odd$"
    ):
        _ = Subject(run, data, attribute="Bald").colours


def test_every_section_says_what_is_good_and_what_is_bad():
    assert len({section.anchor for section in SECTIONS}) == len(SECTIONS)
    for section in SECTIONS:
        assert len(section.advice) > 60
