"""The documentation as a site, built with strict links."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Links(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id") or found.get("name"))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "link", "iframe") and found.get("rel") != "canonical":
            self.loads += filter(None, [found.get("src"), found.get("href")])


def test_every_link_leads_to_a_page_and_a_place_in_it(site):
    pages = {path: Links(path) for path in site.rglob("*.html") if "files" not in path.parts}
    assert len(pages) > 20
    for path, page in pages.items():
        if path.name in ("404.html", "example.html"):
            continue
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = unquote(link).partition("#")
            target = (path.parent / place).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].ids, f"{path.name}: {link}"


def test_no_page_asks_another_server_for_anything(site):
    for path in site.rglob("*.html"):
        if "files" not in path.parts:
            assert not [load for load in Links(path).loads if load.startswith(("http", "//"))], path


def test_the_reference_has_what_the_package_offers(site):
    """Every public name but the pictures' modules, with the text of its docstring."""
    text = (site / "api.html").read_text("utf-8")
    offered = (REPOSITORY / "src" / "latens" / "__init__.pyi").read_text()
    ids = Links(site / "api.html").ids
    names = {name.rpartition(".")[2] for name in ids if name}
    missing = [n for n in re.findall(r" as (\w+)$", offered, re.MULTILINE) if n not in names]
    assert set(missing) <= {"analysis", "pictures"}  # modules
    assert "nats" in text
