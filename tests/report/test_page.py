"""The page in a browser: it answers, it is accessible, nothing is broken, nothing is asked for."""

import json
import os
import shutil
import time

import pytest
import torch
from PIL import Image

import latens

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DECODED = "document.querySelector('[data-part=decoded]')"
SIZES = {"desktop": (1200, 900), "phone": (390, 844)}

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("needs Chromium", allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")  # its event loop must not run beside other tests
def browser():
    assert CHROMIUM, "continuous integration installs Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Of a run that has every kind of picture."""
    out = tmp_path_factory.mktemp("page") / "run"
    options = {"recipe": "conv", "channels": 4, "features": 32, "epochs": 5, "film": True}
    return latens.train("digits", out=out, latent_dim=2, **options).path / "report.html"


@pytest.fixture(params=SIZES)
def page(request, browser, report):
    """The page on a screen, with what it complained of and asked for."""
    scheme = "light" if request.param == "desktop" else "dark"
    page = opened(browser, report, SIZES[request.param], color_scheme=scheme)
    yield page
    page.close()


@pytest.fixture
def desktop(browser, report):
    page = opened(browser, report, SIZES["desktop"])
    yield page
    page.close()


def opened(browser, report, size, **options):
    viewport = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=viewport, **options)
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    page.wait_for_function(f"{DECODED}.dataset.count > 0")
    return page


def test_nothing_is_broken_and_nothing_asked_for(page, report):
    assert page.complaints == []
    asked = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scroll"


def test_it_is_accessible(page):
    """By axe-core, folded parts open."""
    page.evaluate("document.querySelectorAll('main details').forEach((d) => (d.open = true))")
    found = Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    told = [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious]
    assert told == []


def test_what_is_hidden_takes_no_room(desktop):
    """As the image of a decoder that no page can run."""
    image = desktop.locator("[data-part=decoded]")
    assert image.is_visible()
    desktop.evaluate("document.querySelector('.decoded').hidden = true")
    assert not image.is_visible()


# ---- the explorer ----------------------------------------------------------------------------


def stage(page):
    plane = page.locator(".stage canvas")
    plane.scroll_into_view_if_needed()
    # A page hears of a scroll with its next frame, and hides the tip then
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return plane.bounding_box()


def pixels(page, selector):
    """The red of each pixel of a canvas, row by row."""
    return page.evaluate(
        """(selector) => {
          const canvas = document.querySelector(selector);
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return Array.from(data.filter((_, i) => i % 4 === 0));
        }""",
        selector,
    )


def settled(page):
    """The z that is decoded, once it stays: the worker may be slow on a busy machine."""
    seen = None
    for _ in range(40):
        page.wait_for_timeout(150)
        before, seen = seen, page.evaluate(f"{DECODED}.dataset.z")
        if seen == before:
            break
    return json.loads(seen)


def test_dragging_decodes_what_torch_decodes(page, report):
    vae = latens.load(report.parent)
    box, seen = stage(page), []
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    for x, y in ((0.4, 0.6), (0.55, 0.35), (0.7, 0.5)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        z = torch.tensor(settled(page))
        shown = torch.tensor(pixels(page, "[data-part=decoded]"))
        expected = 255 * vae.decode_images(z[None]).flatten()
        assert (shown - expected).abs().max() <= 2
        seen.append((z, shown))
    page.mouse.up()
    assert len({tuple(z.tolist()) for z, _ in seen}) == 3
    assert not torch.equal(seen[0][1], seen[2][1]), "the image follows"


def test_a_drag_is_decoded_as_it_goes(desktop):
    """How many a second is printed, and not tested: a machine may be busy."""
    box, rates = stage(desktop), []
    desktop.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    desktop.mouse.down()
    count = f"Number({DECODED}.dataset.count)"
    for _ in range(5):
        before, began = desktop.evaluate(count), time.perf_counter()
        for i in range(40):
            x = 0.3 + 0.4 * i / 40
            desktop.mouse.move(box["x"] + x * box["width"], box["y"] + 0.5 * box["height"])
        desktop.wait_for_timeout(30)
        rates.append((desktop.evaluate(count) - before) / (time.perf_counter() - began))
    desktop.mouse.up()
    print("decoded images a second:", sorted(rates)[2])
    assert desktop.evaluate(count) > 20, "most places of a drag are decoded"


def test_sliders_and_a_walk_move_z(desktop):
    slider = desktop.locator("[data-part=dims] input").first
    slider.fill("1.5")
    assert 1.5 in settled(desktop)
    desktop.locator("[data-part=a]").click()
    slider.fill("-0.5")
    settled(desktop)
    desktop.locator("[data-part=b]").click()
    desktop.locator("[data-part=walk]").fill("0.5")
    assert 0.5 in settled(desktop), "half way between A and B"


def test_arrow_keys_do_what_dragging_does(desktop):
    before = settled(desktop)
    desktop.locator(".stage canvas").focus()
    desktop.keyboard.press("ArrowRight")
    desktop.keyboard.press("Shift+ArrowUp")
    assert settled(desktop) == pytest.approx([before[0] + 0.1, before[1] + 0.5], abs=1e-5)


def test_a_point_tells_its_image_and_cost(desktop, digits):
    data = desktop.evaluate("JSON.parse(document.getElementById('explorer-data').textContent)")
    box, tip = stage(desktop), desktop.locator(".tip")
    assert not tip.is_visible()
    for i in range(400):  # a lattice about the middle, until a point is near
        x, y = 0.3 + 0.02 * (i % 20), 0.3 + 0.02 * (i // 20)
        desktop.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if tip.is_visible():
            break
    label, _, cost = tip.inner_text().split("\n")[0].partition(" · −ELBO ")
    of = float(cost.removesuffix(" nats"))
    same = [
        data["names"][y] for y, loss in zip(data["labels"], data["loss"], strict=True) if loss == of
    ]
    assert label in same
    desktop.mouse.move(1, 1)
    tip.wait_for(state="hidden")


def test_a_class_stands_alone_everywhere(desktop):
    chip = desktop.locator("[data-part=classes] button").nth(3)
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    away = (
        "[...document.querySelectorAll('[data-class]')]"
        ".map(n => [n.dataset.class, n.classList.contains('away')])"
    )
    states = desktop.evaluate(away)
    assert len(states) > 40
    assert all(hidden == (label != "3") for label, hidden in states)
    chip.click()
    assert not any(hidden for _, hidden in desktop.evaluate(away))


def test_an_image_of_ones_own_is_encoded(desktop, report, digits, tmp_path):
    x = digits.test.take(slice(5, 6))
    Image.fromarray(x.pixels[0, 0].numpy()).save(tmp_path / "own.png")
    desktop.locator("[data-part=file]").set_input_files(tmp_path / "own.png")
    z = settled(desktop)
    expected = latens.load(report.parent).embed(x.unit())[0].tolist()
    assert z == pytest.approx(expected, abs=0.05)


# ---- films -----------------------------------------------------------------------------------


def test_one_slider_moves_every_film_of_the_training(desktop):
    desktop.locator("#films-of-the-training").scroll_into_view_if_needed()
    slider = desktop.locator(".player.all input")
    slider.wait_for(state="visible")
    frames = (
        "[...document.querySelectorAll('[data-film=training]')]"
        ".map(f => f.style.getPropertyValue('--f'))"
    )
    assert len(desktop.evaluate(frames)) > 6
    cursor = "document.querySelector('svg .cursor').getAttribute('x1')"
    shown, points = {}, "#picture-film-latent-space canvas"
    desktop.wait_for_function(f"document.querySelector('{points}').width > 100")
    for frame in ("1", "4"):
        slider.fill(frame)
        assert set(desktop.evaluate(frames)) == {frame}
        shown[frame] = (desktop.evaluate(cursor), pixels(desktop, points))
        assert desktop.locator(".player.all output").inner_text() == f"epoch {frame}"
    assert shown["1"][0] != shown["4"][0], "the line on the curves"
    assert shown["1"][1] != shown["4"][1], "the latent plane"
    desktop.locator(".player.all button").nth(1).click()
    assert set(desktop.evaluate(frames)) == {"3"}, "one step back"


def test_films_play_but_for_those_who_prefer_reduced_motion(browser, report):
    for motion in ("no-preference", "reduce"):
        page = opened(browser, report, SIZES["desktop"], reduced_motion=motion)
        film = page.locator("#picture-transitions")
        film.scroll_into_view_if_needed()
        page.wait_for_timeout(900)
        moved = film.evaluate("f => f.style.getPropertyValue('--f')") != "0"
        assert moved == (motion == "no-preference")
        if moved:
            film.get_by_label("Pause").click()
            assert film.get_by_label("Play", exact=True).is_visible()
        page.close()


def test_hovering_the_manifold_names_its_coordinates(page):
    cell = page.locator("#picture-manifold .cell")
    cell.scroll_into_view_if_needed()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = cell.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.locator(".tip").wait_for(state="visible")
    assert page.locator(".tip").inner_text() == "z[0] 0.00, z[1] 0.00"
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 2)
    assert page.locator(".tip").inner_text() == "z[0] −4.00, z[1] −4.00"


def test_sheets_and_letters_fit_the_screen(page):
    wide = """[...document.querySelectorAll('.sprite')]
      .filter(s => s.scrollWidth > s.clientWidth + 1).map(s => s.closest('figure').id)"""
    assert page.evaluate(wide) == []
    small = """Math.min(...[...document.querySelectorAll('.sprite span, p, figcaption')]
      .filter(n => n.textContent.trim() && n.offsetParent)
      .map(n => parseFloat(getComputedStyle(n).fontSize)))"""
    assert page.evaluate(small) >= 9.5
    assert page.locator("h1").is_visible()


def test_contents_stay_in_sight(page):
    page.locator("#curves").scroll_into_view_if_needed()
    assert page.locator("nav.contents summary").is_visible()
    box = page.locator("nav.contents").bounding_box()
    assert -1 <= box["y"] < 50


def test_details_open(page):
    details = page.locator("main details").first
    assert not details.locator(".cell").first.is_visible()
    details.locator("summary").click()
    assert details.locator(".cell").first.is_visible()
