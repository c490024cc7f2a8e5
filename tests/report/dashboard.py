"""What the dashboard's tests share: run records that belong to no published study, and a parser of its pages."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from experiments.harness.record import RunRecord
from experiments.report.dashboard.pages import write_dashboard

STUDY_PAGE = "image_classification--mini--mini.html"
BATCH_SIZE, SECONDS_A_STEP = 128, 0.25
LION = {"name": "lion", "lr": 1e-3}


def write_record(
    directory: Path,
    optimizer: dict[str, Any] = LION,
    *,
    seed: int = 0,
    test: bool = True,
    status: str = "complete",
    rows: list[dict[str, float]] | None = None,
    steps: int = 200,
    digest: str = "abcdef0123456789",
    data: str = "cifar10",
) -> None:
    """A run record with config, environment, status and metrics; training rows every 10 steps, evaluations every 25."""
    if rows is None:
        rows = [{"step": step, "train/loss": 2.3 - step / 200} for step in range(10, 101, 10)]
        rows += [{"step": step, "val/top1": step / 4} for step in range(25, 101, 25)]
        rows.sort(key=lambda row: row["step"])
    for row in rows:
        row["samples"] = row["step"] * BATCH_SIZE
        if "train/loss" in row:
            row["time/train_s"] = row["step"] * SECONDS_A_STEP
            row["optimizer/update_norm"] = 0.01
    config = {
        "task": directory.parent.name if directory.parent.name != "runs" else "image_classification",
        "data": {"name": data, "fingerprint": "f" * 16},
        "model": {"_target_": "experiments.image_classification.convnet.ConvNet"},
        "optimizer": optimizer,
        "seed": seed,
        "test": test,
        "train": {"steps": steps, "batch_size": BATCH_SIZE},
    }
    with RunRecord(directory, digest, config) as record:
        for row in rows:
            record.append(row)
        record.set_status(status)


class Page(HTMLParser):
    """Elements and texts of a page, and the data of its charts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(self.html)
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


def built(tmp_path: Path, pattern: str = STUDY_PAGE) -> Page:
    """The only page of a new dashboard whose file matches ``pattern``."""
    (path,) = build(tmp_path).glob(pattern)
    return Page(path)


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
