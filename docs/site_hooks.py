"""The pages of the repository's root in the site, and links that lead from and to them."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "src/latens/judges/mnist/README.md": "judge.md",
}
LINK = re.compile(r'(\]\(|src="|href=")(?![a-z]+:|#)([^)"#\s]+)')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the files outside of the folder that pages link to."""
    for path, name in PAGES.items():
        text = _with_links(ROOT / path, name)
        files.append(File.generated(config, name, content=text))
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / page for page in PAGES)]
    for path in sorted({path for page in pages for path in _outside(page)}):
        content = (ROOT / path).read_bytes()
        files.append(File.generated(config, f"files/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page in docs/ to what is outside of it."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return _rewritten(markdown, ROOT / "docs" / page.file.src_uri, page.file.src_uri)


def _with_links(path: Path, name: str) -> str:
    return _rewritten(path.read_text("utf-8"), path, name)


def _outside(page: Path) -> set[str]:
    """The files that a page links to which are neither pages nor in docs/."""
    targets = (_target(page, match[2]) for match in LINK.finditer(page.read_text("utf-8")))
    return {target for target in targets if _is_file(target)}


def _target(path: Path, link: str) -> str:
    return posixpath.normpath(path.parent.relative_to(ROOT).joinpath(link).as_posix())


def _is_file(target: str) -> bool:
    return not target.startswith("docs/") and target not in PAGES and (ROOT / target).is_file()


def _rewritten(text: str, path: Path, name: str) -> str:
    """The text of a file of the repository as that of a page of this name."""

    def rewritten(match: re.Match[str]) -> str:
        target = _target(path, match[2])
        place = PAGES.get(target) or (f"files/{target}" if _is_file(target) else None)
        if place is None and target.startswith("docs/"):
            place = target.removeprefix("docs/")
        if place is None:
            return match[0]
        return match[1] + posixpath.relpath(place, posixpath.dirname(name) or ".")

    return LINK.sub(rewritten, text)
