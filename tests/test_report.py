import base64
import io
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

import latens
from latens import LatensError
from latens.report import draw_pictures, write_report


class Page(HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]

    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def page(digits_run):
    return Page((digits_run.path / "report.html").read_text())


def test_every_picture_is_inside_whole_and_described(page):
    assert len(page.images()) == 5
    for attributes in page.images():
        kind, content = attributes["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.verify()
        assert len(attributes["alt"]) > 15


def test_nothing_is_asked_for_from_outside(page, digits_run):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    text = (digits_run.path / "report.html").read_text()
    assert not re.search(r"https?://|url\(", text)


def test_the_figures_are_those_of_the_run(page, digits_run):
    figures, words = digits_run.figures, page.words()
    for value in (-figures["elbo"], figures["reconstruction"], figures["kl"]):
        assert f"{value:.2f}" in words
    assert "cross-entropy on grey pixels" in words
    assert digits_run.record["command"] in words
    assert digits_run.record["data"]["fingerprint"] in words
    assert "digits, mlp, 4 dims, β 1" in words


def test_a_name_cannot_break_the_page(digits_run, digits, tmp_path):
    record = digits_run.record
    record = record | {"data": record["data"] | {"name": "<script>alert(1)</script>"}}
    run = latens.Run(digits_run.path, record)
    from latens.report import render

    text = render(run, run.metrics, tmp_path)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_made_anew_shows_the_same(digits_run, tmp_path):
    """Bits that are drawn at each visit included, and the user's random numbers left alone."""
    data = latens.load_data("digits", binarisation="dynamic")
    shown = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        draw_pictures(digits_run, data, tmp_path / str(seed))
        assert torch.equal(torch.rand(3), expected)
        shown.append({p.name: p.read_bytes() for p in (tmp_path / str(seed)).iterdir()})
    assert shown[0] == shown[1]


def test_without_an_epoch_there_is_nothing_to_show(digits, digits_run, tmp_path):
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    with pytest.raises(LatensError, match="no finished epoch yet"):
        write_report(run, digits)


def test_an_unfinished_run_shows_validation(digits, digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run")
    (tmp_path / "run" / "figures.json").unlink()
    path = latens.api.report(tmp_path / "run")
    assert "has not ended" in Page(path.read_text()).words()
