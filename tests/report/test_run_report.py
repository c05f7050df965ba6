import base64
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
from latens.report.context import ReportContext
from latens.report.html import LARGEST, draw_pictures
from latens.report.run_report import render, write_report
from latens.report.sections import SECTIONS


class Page(HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.data = [], [], {}
        self.reading = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.reading = dict(attrs).get("data-for")

    def handle_endtag(self, tag):
        self.reading = None

    def handle_data(self, data):
        if self.reading:
            self.data[self.reading] = json.loads(data)
        self.text.append(data)

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]

    def words(self):
        return " ".join(" ".join(self.text).split())


def url_image(url):
    kind, content = url.split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture(scope="module")
def page(digits_report):
    return Page((digits_report.path / "report.html").read_text())


STILLS = ["curves", "histograms", "interpolations", "kl-over-training", "kl-per-dim"]
STILLS += ["latent-space", "manifold", "manifold-quantiles", "reconstructions-train"]
STILLS += ["reconstructions-validation", "samples", "samples-by-class", "traversals"]
FILMS = ["film-latent-space", "film-reconstructions-train", "film-reconstructions-validation"]
FILMS += ["film-samples", "latent-space-3d", "transitions", "traversals-film"]


def test_every_picture_has_its_name(digits_report):
    names = {path.name for path in (digits_report.path / "pictures").iterdir()}
    films = {f"{name}.{suffix}" for name in FILMS for suffix in ("gif", "webp")}
    assert names == {f"{name}.png" for name in STILLS} | films


def test_every_name_is_documented():
    text = (Path(__file__).parent.parent.parent / "docs" / "pictures.md").read_text("utf-8")
    assert set(STILLS + FILMS) <= set(re.findall(r"`([a-z0-9-]+)`", text))


def test_every_picture_is_inside_whole_and_described(page):
    assert len(page.images()) == len(STILLS) + len(FILMS)
    for attributes in page.images():
        with url_image(attributes["src"]) as image:
            image.verify()
        assert len(attributes["alt"]) > 15


def test_nothing_is_asked_for_from_outside(page, digits_report):
    for tag, attributes in page.tags:
        assert tag != "iframe"
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    text = (digits_report.path / "report.html").read_text()
    assert not re.search(r"https?://|url\(|import ", text)
    assert len(text) < 15_000_000


def test_contents_lead_to_every_section(page):
    anchors = {attributes["id"] for tag, attributes in page.tags if tag == "h2"}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{anchor}" for anchor in anchors}
    assert {"latent-space", "films-of-the-training", "reproduce"} <= anchors


def test_hovering_knows_the_image_of_each_point(page, digits_run, digits):
    about = page.data["latent-space"]
    z = digits_run.vae.embed(digits.test.unit())
    context = ReportContext(digits_run, digits)
    assert np.allclose(about["points"], context.plane[0], atol=1e-3)
    assert len(about["points"]) == len(z)
    assert about["labels"] == digits.test.labels.tolist()
    sprite = np.asarray(url_image(about["sprite"]).convert("RGB")).astype(int)
    width, height = about["side"]
    for i in (0, 17, len(z) - 1):
        row, column = divmod(i, about["columns"])
        found = sprite[row * height : (row + 1) * height, column * width : (column + 1) * width]
        expected = tile(digits.test.unit()[i][None, None], least_side=1)
        others = [
            np.abs(tile(x[None, None], least_side=1) - found).mean() for x in digits.test.unit()
        ]
        assert np.abs(found - expected).mean() <= min(others) + 1e-9


def test_hovering_knows_the_coordinates_of_each_image(page):
    about = page.data["manifold"]
    assert about["x"][0] == about["y"][-1] == -4
    assert about["x"][-1] == about["y"][0] == 4
    assert all(0 <= share <= 1 for share in about["box"])


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
    chapters = draw_pictures([plane], ReportContext(digits_run, data), tmp_path)
    text = render(digits_run, chapters)
    assert "<script>alert" not in text
    assert Page(text).data["latent-space"]["names"][0].startswith("</script>")


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
    assert len(page.images()) == 3, "the curves"


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
    monkeypatch.setattr("latens.report.html.LARGEST", 50_000)
    shown = [section for section in SECTIONS if section.name in ("Reconstructions", "Manifold")]
    chapters = draw_pictures(shown, ReportContext(digits_run, digits), tmp_path)
    page = Page(render(digits_run, chapters))
    assert 0 < len(page.images()) < 4
    assert "Too large for this page: see pictures/manifold.png" in page.words()
