import base64
import dataclasses
import io
import json
import re
import shutil
from functools import partial
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens import LatensError, pictures
from latens.pictures import read_frames, tile
from latens.report.contents import SECTIONS
from latens.report.context import ReportContext
from latens.report.explorer import explorer_of
from latens.report.html import LARGEST, draw_pictures
from latens.report.run_report import render, write_report


class Page(HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.data, self.sprites = [], [], {}, {}
        self.figure = self.reading = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "figure" and "id" in attrs:
            self.figure = attrs["id"].removeprefix("picture-")
        if attrs.get("type") == "application/json":
            self.reading = attrs.get("id", self.figure)

    def handle_endtag(self, tag):
        self.reading = None

    def handle_data(self, data):
        if self.reading:
            self.data[self.reading] = json.loads(data)
        found = re.match(
            r"#picture-([\w-]+) \.cell \{ background-image: url\((data:.*)\); \}", data
        )
        if found:
            self.sprites[found[1]] = found[2]
        self.text.append(data)

    def pictures(self):
        """The names of the pictures on it, each with the words for those who cannot see it."""
        said = {}
        for i, (tag, attributes) in enumerate(self.tags):
            if tag == "figure" and "id" in attributes:
                rest = [of for _, of in self.tags[i + 1 :] if of.get("role") == "img"]
                said[attributes["id"].removeprefix("picture-")] = rest[0]["aria-label"]
        return said

    def words(self):
        return " ".join(" ".join(self.text).split())


def url_image(url):
    kind, content = url.split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture(scope="session")
def page(digits_report):
    return Page((digits_report.path / "report.html").read_text())


STILLS = ["curves", "histograms", "interpolations", "kl-over-training", "kl-per-dim"]
STILLS += ["latent-space", "manifold", "manifold-quantiles", "reconstructions-train"]
STILLS += ["costliest", "reconstructions-validation", "samples", "samples-by-class", "traversals"]
FILMS = ["film-latent-space", "film-reconstructions-train", "film-reconstructions-validation"]
FILMS += ["film-samples", "latent-space-3d", "transitions", "traversals-film"]


NOT_ON_PAGE = {"latent-space", "latent-space-3d"}  # the explorer shows the same


def test_every_picture_has_its_name(digits_report):
    names = {path.name for path in (digits_report.path / "pictures").iterdir()}
    films = {f"{name}.{suffix}" for name in FILMS for suffix in ("gif", "webp")}
    assert names == {f"{name}.png" for name in STILLS} | films


def test_every_name_is_documented():
    text = (Path(__file__).parent.parent.parent / "docs" / "pictures.md").read_text("utf-8")
    others = ["levels", "kl-per-level", "mistakes", "emptiest", "attributes"]
    assert {*STILLS, *FILMS, *others} <= set(re.findall(r"`([a-z0-9-]+)`", text))


def test_every_picture_is_inside_whole_and_described(page):
    shown = page.pictures()
    assert set(shown) == {*STILLS, *FILMS, "primer"} - NOT_ON_PAGE
    assert all(len(alt) > 15 for alt in shown.values())
    plots = {"curves", "histograms", "kl-per-dim", "kl-over-training"}
    assert set(page.sprites) == set(shown) - plots - {"film-latent-space"}
    for url in page.sprites.values():
        with url_image(url) as image:
            image.verify()
    assert sum(tag == "svg" for tag, _ in page.tags) == len(plots)


def test_nothing_is_asked_for_from_outside(page, digits_report):
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "img", "link") or attributes.get("href") == "data:,"
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    text = (digits_report.path / "report.html").read_text()
    assert set(re.findall(r"https?://[^\"\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\((?!data:|#)|\bimport ", text)
    assert len(text) < 14_000_000


def test_no_folder_of_this_machine_is_told(digits_run, tmp_path):
    command = f"latens train {tmp_path}/faces --out /home/someone/run"
    text = render(latens.Run(digits_run.path, digits_run.record | {"command": command}), [])
    assert "latens train faces --out run" in text
    assert str(tmp_path) not in text
    assert "/home" not in text


def test_contents_lead_to_every_section(page):
    anchors = {attributes["id"] for tag, attributes in page.tags if tag == "h2"}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{anchor}" for anchor in anchors}
    assert {"latent-space", "films-of-the-training", "reproduce"} <= anchors


def test_the_explorer_knows_every_point_and_its_image(page, digits_run, digits):
    about = page.data["explorer-data"]
    x, y = digits.test.unit(), digits.test.labels
    z = digits_run.vae.embed(x)
    assert np.allclose(numbers(about["z"]).reshape(z.shape), z, atol=1e-5)
    assert about["labels"] == y.tolist()
    linear, space, neighbours = about["projections"]
    assert (linear["name"], space["name"], neighbours["name"]) == ("PCA", "PCA, 3-D", "t-SNE")
    context = ReportContext(digits_run, digits)
    assert np.allclose(numbers(linear["points"]).reshape(-1, 2), context.plane[0], atol=1e-4)
    # From a point on the plane back to z: along axes of length 1, at right angles
    basis = np.array(linear["basis"])
    assert np.allclose(basis @ basis.T, np.eye(2), atol=1e-3)
    assert np.allclose((z.numpy() - linear["origin"]) @ basis.T, context.plane[0], atol=1e-3)
    # No image has larger pixels than those of the sprite
    sprite = np.asarray(url_image(about["images"]["url"]).convert("RGB"))
    for i in (0, 17, len(z) - 1):
        row, column = divmod(i, about["images"]["columns"])
        found = sprite[row * 8 : (row + 1) * 8, column * 8 : (column + 1) * 8]
        assert np.array_equal(found, tile(x[i][None, None], least_side=1))
    expected = -per_image_elbo(digits_run.vae, digits.test)
    assert np.mean(about["loss"]) == pytest.approx(expected.mean(), abs=0.3)
    assert np.corrcoef(about["loss"], expected)[0, 1] > 0.9


def test_the_explorer_of_sorted_images_knows_which_they_are(digits_run, digits, monkeypatch):
    monkeypatch.setattr("latens.report.explorer.POINTS", 60)
    order = digits.test.labels.argsort()
    test = dataclasses.replace(digits.test.take(order), shuffled=False)
    context = ReportContext(digits_run, dataclasses.replace(digits, test=test))
    about = explorer_of(context, {})
    z = numbers(about["z"]).reshape(60, -1)
    at = [int(np.abs(context.latents.mean.numpy() - row).sum(1).argmin()) for row in z]
    assert about["labels"] == test.labels[at].tolist()
    assert about["loss"] == pytest.approx(context.costs[at].tolist(), abs=0.06)
    assert len(set(about["labels"])) == 10


def numbers(text):
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def per_image_elbo(vae, images):
    """By 200 z for each image."""
    draw = vae.draw(images.unit(), images.labels, 200)
    return (draw.log_px_z.mean(0) - draw.kl).detach().numpy()


def test_hovering_knows_the_coordinates_of_each_image(page):
    about = page.data["manifold"]
    assert about["x"][0] == about["y"][-1] == -4
    assert about["x"][-1] == about["y"][0] == 4


def test_the_baseline_is_what_the_mean_image_costs(digits_run, digits):
    """Of a Bernoulli the cross-entropy with the mean of the training images, by hand."""
    mean = digits.train.unit().mean(0).clamp(1e-3, 1 - 1e-3)
    x = digits.test.unit()
    expected = -(x * mean.log() + (1 - x) * (1 - mean).log()).sum((1, 2, 3)).mean().item()
    assert ReportContext(digits_run, digits).baseline == pytest.approx(expected, rel=1e-4)


def test_the_figures_are_those_of_the_run(page, digits_run):
    figures, words = digits_run.figures, page.words()
    for value in (-figures["elbo"], figures["reconstruction"], figures["kl"]):
        assert f"{value:.2f}" in words
    assert "cross-entropy on grey pixels" in words
    assert digits_run.record["command"] in words
    assert digits_run.record["data"]["fingerprint"] in words
    assert "digits, mlp, 4 dims, β 1" in words


def test_a_name_cannot_break_the_page(digits_run):
    record = digits_run.record
    names = {"name": "<script>alert(1)</script>", "classes": ["</script><b>"] * 10}
    run = latens.Run(digits_run.path, record | {"data": record["data"] | names})
    text = render(run, [])
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text


def test_a_class_cannot_end_the_script_that_names_it(digits_run, digits, tmp_path):
    from dataclasses import replace

    data = replace(digits, classes=("</script><script>alert(1)</script>", *digits.classes[1:]))
    section = next(section for section in SECTIONS if section.name == "Latent space")
    plane = replace(section, draw=lambda context: islice(section.draw(context), 1))
    context = ReportContext(digits_run, data)
    chapters = draw_pictures([plane], context, tmp_path)
    text = render(digits_run, chapters, explorer=explorer_of(context, {}))
    assert "<script>alert" not in text
    assert Page(text).data["explorer-data"]["names"][0].startswith("</script>")


def test_a_report_made_anew_shows_the_same(digits_run, tmp_path, monkeypatch):
    """Bits that are drawn at each visit included, and the user's random numbers left alone."""
    monkeypatch.setattr("latens.pictures.turning", partial(pictures.turning, frames=2))
    data = latens.load_data("digits", binarisation="dynamic")
    shown = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        draw_pictures(SECTIONS[:5], ReportContext(digits_run, data), tmp_path / str(seed))
        assert torch.equal(torch.rand(3), expected)
        shown.append({p.name: p.read_bytes() for p in (tmp_path / str(seed)).iterdir()})
    assert shown[0] == shown[1]


def test_without_an_epoch_there_is_nothing_to_show(digits, digits_run, tmp_path):
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    with pytest.raises(LatensError, match="no finished epoch yet"):
        write_report(run, digits)


def test_an_unfinished_run_shows_validation(digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run")
    (tmp_path / "run" / "figures.json").unlink()
    assert "has not ended" in Page(render(latens.Run.open(tmp_path / "run"), [])).words()


def films_of(run, digits, folder):
    """The page of the last two sections, which need the recording."""
    chapters = draw_pictures(SECTIONS[-3:], ReportContext(run, digits), folder)
    return Page(render(run, chapters))


def test_a_run_without_a_recording_says_how_to_get_films(digits, digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("film"))
    words = films_of(latens.Run.open(tmp_path / "run"), digits, tmp_path).words()
    assert "train anew with --film" in words
    assert "Inside the networks" not in words


def test_a_damaged_recording_is_named_and_the_rest_is_shown(digits, digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run")
    frame = sorted((tmp_path / "run" / "film").iterdir())[2]
    frame.write_bytes(frame.read_bytes()[:100])
    page = films_of(latens.Run.open(tmp_path / "run"), digits, tmp_path)
    assert "truncated" in page.words()
    assert len(page.pictures()) == 3, "the curves"


def test_films_have_a_frame_for_each_epoch_recorded(digits_report):
    epochs = list(digits_report.frames)
    assert epochs == list(range(9))
    for name in FILMS[:4]:
        for suffix in ("gif", "webp"):
            frames = read_frames(digits_report.path / "pictures" / f"{name}.{suffix}")
            assert len(frames) == len(epochs)
            assert len({frame.tobytes() for frame in frames}) == len(epochs)


def test_what_is_too_large_for_a_page_stays_in_its_file(digits, digits_run, tmp_path, monkeypatch):
    assert LARGEST < 15_000_000
    monkeypatch.setattr("latens.report.html.LARGEST", 20_000)
    shown = [section for section in SECTIONS if section.name in ("Reconstructions", "Manifold")]
    chapters = draw_pictures(shown, ReportContext(digits_run, digits), tmp_path)
    page = Page(render(digits_run, chapters))
    assert 0 < len(page.sprites) < 4
    assert "Too large for this page: see pictures/manifold.png" in page.words()
