"""The page in a browser: nothing is broken, nothing is asked for, and hovering shows images."""

import os
import shutil

import pytest
from PIL import Image

import latens

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SIZES = {"desktop": (1200, 900), "phone": (390, 844)}

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("needs Chromium", allow_module_level=True)

from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "continuous integration installs Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a run that has every kind of picture."""
    out = tmp_path_factory.mktemp("page") / "run"
    options = {"recipe": "conv", "channels": 4, "features": 32, "epochs": 5, "film": True}
    return latens.train("digits", out=out, latent_dim=2, **options).path / "report.html"


@pytest.fixture(params=SIZES)
def page(request, browser, report):
    """The page on a screen, with what it complained of and asked for."""
    width, height = SIZES[request.param]
    scheme = "light" if request.param == "desktop" else "dark"
    viewport = {"width": width, "height": height}
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    yield page
    page.close()


def test_nothing_is_broken_and_nothing_asked_for(page, report):
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    folder = report.parent / "pictures"
    assert page.evaluate("document.images.length") == len(
        [*folder.glob("*.png"), *folder.glob("*.webp")]
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scroll"


def over(page, name, x, y):
    """Move the pointer to a place of a picture, in shares of its width and height."""
    stage = page.locator(f"[data-hover={name}]")
    stage.scroll_into_view_if_needed()
    # A page hears of a scroll with its next frame, and hides the tip then
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = stage.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def about(page, name):
    return page.evaluate(
        f"JSON.parse(document.querySelector('script[data-for={name}]').textContent)"
    )


TIP = """() => {
  const canvas = document.querySelector(".tip canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return Array.from(pixels.filter((_, i) => i % 4 == 0));
}"""


def test_hovering_a_point_shows_its_image(page, digits):
    known = about(page, "latent-space")
    x0, y0, x1, y1 = known["box"]
    left, right, bottom, top = known["limits"]
    tip = page.locator(".tip")
    assert not tip.is_visible()
    # The point that is farthest from its nearest neighbour cannot be mistaken for another
    points = known["points"]
    apart = [min(abs(a[0] - b[0]) + abs(a[1] - b[1]) for b in points if b is not a) for a in points]
    inside = [left < x < right and bottom < y < top for x, y in points]
    i = max(range(len(points)), key=lambda i: apart[i] * inside[i])
    x, y = points[i]
    place = (x - left) / (right - left), (y - bottom) / (top - bottom)
    over(page, "latent-space", x0 + place[0] * (x1 - x0), y1 - place[1] * (y1 - y0))
    tip.wait_for(state="visible")
    assert tip.inner_text().startswith(f"{digits.classes[digits.test.labels[i]]} · z[0]")
    # Its pixels are those of the test image, scaled up by a whole number
    shown = page.evaluate(TIP)
    side = round(len(shown) ** 0.5)
    scale = side // 8
    assert side % 8 == 0
    pixels = digits.test.pixels[i, 0].tolist()
    worst = max(
        abs(
            shown[(row * scale + scale // 2) * side + column * scale + scale // 2]
            - pixels[row][column]
        )
        for row in range(8)
        for column in range(8)
    )
    assert worst < 60, "WebP is lossy, and another image would differ by up to 255"
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")


def test_hovering_the_manifold_names_its_coordinates(page):
    known = about(page, "manifold")
    x0, y0, x1, y1 = known["box"]
    over(page, "manifold", x0 + (x1 - x0) * 0.001, y1 - (y1 - y0) * 0.001)
    page.locator(".tip").wait_for(state="visible")
    assert page.locator(".tip").inner_text() == "z[0] −4.00, z[1] −4.00"
    over(page, "manifold", (x0 + x1) / 2, (y0 + y1) / 2)
    assert page.locator(".tip").inner_text() == "z[0] 0.00, z[1] 0.00"


def test_it_fits_its_screen(page, tmp_path):
    """What a reader sees first and last: the title, no sideways scroll, letters to the end."""
    width = page.viewport_size["width"]
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    with Image.open(tmp_path / "page.png") as image:
        assert image.width == width
        assert image.height > 3000
        top = image.convert("L").crop((0, 0, width, 300))
        assert top.getextrema()[1] - top.getextrema()[0] > 150, "letters that can be read"
    assert page.locator("h1").is_visible()


def test_details_open(page):
    details = page.locator("details").first
    assert not details.locator("img").first.is_visible()
    details.locator("summary").click()
    assert details.locator("img").first.is_visible()
