"""Parses a dashboard's pages for the tests: their elements, links and data."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from experiments.report.dashboard.pages import write_dashboard


class Page(HTMLParser):
    """Elements and texts of a page, and the data of its charts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.texts).split())
        self.links = [attributes["href"] for tag, attributes in self.tags if tag == "a" and attributes["href"]]
        self.ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        found = [text for text in self.texts if text.startswith('{"axes"')]
        self.data: dict[str, Any] = json.loads(found[0]) if found else {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def build(tmp_path: Path) -> Path:
    return write_dashboard(tmp_path / "results", tmp_path / "runs", tmp_path / "dashboard").parent


def broken_links(folder: Path) -> list[str]:
    """Broken links of all pages: to a missing file or a missing anchor."""
    pages = {path.name: Page(path) for path in folder.glob("*.html")}
    broken = []
    for name, page in pages.items():
        for link in page.links:
            file, _, place = link.partition("#")
            target = pages.get(unquote(file) or name)
            if target is None or (place and unquote(place) not in target.ids):
                broken.append(f"{name}: {link}")
    return broken


STUDY_PAGE = "image_classification--mini--mini.html"
