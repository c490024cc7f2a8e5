"""The dashboard's pages: their content, their links, and that no text in them is executed."""

import json
import re
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from experiments.harness.provenance import ROOT
from experiments.report.dashboard.forest import forest
from experiments.report.dashboard.records import columns, open_studies, published_studies
from experiments.report.dashboard.settings import swept_keys
from experiments.report.dashboard.site import ASSETS, write_dashboard
from experiments.report.figures import COLORS, ON_DARK, SPARE_COLORS
from experiments.study.replicates import read_replicates
from tests import forked
from tests.report.conftest import WriteStudy
from tests.report.dashboard_records import held, write_record


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


def summary_of(study: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((study / "summary.json").read_text())
    return summary


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


def test_the_index_leads_to_finished_and_open_studies(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(gain=0.1)
    write_study("lit", "mini", "mini-optimizer.betas=[0.9,0.95]", numbers=range(2))
    write_study("finetuning", "smoke", "smoke", numbers=[0], declared=0, stages=())
    run = tmp_path / "runs" / "diffusion" / "lion-s0-0000000000"
    write_record(run, {"name": "lion", "lr": 1e-3}, status="running")
    write_record(
        tmp_path / "runs/diffusion/lion-s1-0000000000", {"name": "lion", "lr": 1e-3}, data="mnist5k", steps=100
    )
    with held(run):
        folder = build(tmp_path)
    index = Page(folder / "index.html")
    assert "Lion beats AdamW by " in index.text
    assert "Exploratory (replicates 0 to 1; 6 were declared): No verdict" in index.text
    assert index.text.count("Regime: ConvNet, 0.24 M parameters") == 2
    headings = ["verdict", "Finished studies", "In progress", "100 of 200 steps", "Finished sweeps", "100 of 100 steps"]
    places = [index.text.index(words) for words in [*headings, "Smoke", "no verdict: smoke"]]
    assert places == sorted(places)
    assert index.text.index("1 running") < index.text.index("1 complete"), "what is under way stands above what is not"
    assert len(index.links) == 2 * 2 + 3, "two studies in the forest and below it; smoke; two groups of runs"
    assert broken_links(folder) == []


def test_the_forest_places_each_difference_in_units_of_its_margin(write_study: WriteStudy, tmp_path: Path) -> None:
    comparison = summary_of(write_study(gain=0.03, numbers=range(5)))["comparisons"][0]
    write_study("lit", gain=0.9, diverged=[(1, "lion")])
    write_study("finetuning", numbers=[0])
    write_study("diffusion", gain=-0.9)
    write_study("diffusion", "smoke", "smoke", declared=0)
    drawn = forest(published_studies(tmp_path / "results"))
    far, one, row, lost = (each for each in drawn["rows"] if each["study"].summary["declared"])
    reach = 8.0
    low, high = (-end / comparison["margin"] for end in reversed(comparison["difference"]["ci95"]))
    assert row["mean"] == pytest.approx(
        50 + 50 * -comparison["difference"]["mean"] / comparison["margin"] / reach, abs=0.01
    )
    assert (row["low"], row["high"]) == pytest.approx((50 + 50 * low / reach, 50 + 50 * high / reach), abs=0.01)
    mean, (start, end) = comparison["difference"]["mean"], comparison["difference"]["ci95"]
    assert mean < 0 < row["mean"] - 50, "Lion's loss is lower, so it lies on the side of the first"
    assert row["told"] == f"{mean:.4f} ({start:.4f} to {end:.4f})", "with the sign of the study's page"
    assert drawn["sides"] == ["Lion", "AdamW"]
    assert f"{-mean / comparison['margin']:.1f} margins in favour of Lion" in row["hover"]
    assert row["exploratory"]
    assert (far["low"], far["mean"], far["beyond"]) == (0, 0, (True, False)), "it ends at the edge, with an arrow"
    assert far["color"] == COLORS["adamw"]
    assert one["why"] == "one replicate: no interval"
    assert lost["why"] == "confirm runs diverged: Lion in 1 of 6", "the replicates that are left are a selection"
    assert [at for text, at in drawn["ticks"] if text == "2"] == [50 - 50 * 2 / reach, 50 + 50 * 2 / reach]
    assert drawn["tie"] == (50 - 50 / reach, 50 + 50 / reach)


def test_a_studys_page_says_all_that_its_readme_says_first(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(gain=0.1, numbers=range(7))
    text = Page(build(tmp_path) / STUDY_PAGE).text
    said = ["Regime: ConvNet", "Lion beats AdamW by ", "In steps: Lion needs ", "Committed: ", "Yours (replicate 6)"]
    places = [text.index(part) for part in said]
    assert places == sorted(places)
    assert "Ease of tuning: " in text


def test_every_replicate_has_a_row_with_its_winners_settings(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(diverged=[(1, "lion")], optimizers=("lion", "adamw", "sgd"), numbers=range(7))
    path = build(tmp_path) / STUDY_PAGE
    page = Page(path)
    rows = [f"replicate-{name}-{number}" for name in ("lion", "sgd") for number in range(7)]
    assert [place for place in page.ids if str(place).startswith("replicate-")] == rows
    winner = read_replicates(study)[6].of("lion", "confirm")[0].settings["optimizer"]["lr"]
    (row,) = re.findall(r'id="replicate-lion-6">(.*)</tr>', path.read_text())
    assert "6 (reproduction)" in row
    assert f"<td>{winner:.4g}</td>" in row
    (row,) = re.findall(r'id="replicate-lion-1">(.*)</tr>', path.read_text())
    assert "<td>diverged</td>" in row
    assert len(page.ids) == len(set(page.ids))
    assert "hydra/sweeper=study scale=mini" in page.text


def test_no_table_of_any_page_has_two_columns_of_one_name(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(optimizers=("lion", "adamw", "sgd"), samples=True)
    for seed, decay in enumerate((0.1, 0.2)):
        optimizer = {"name": "lion", "lr": 1e-3, "weight_decay": decay}
        rows = [{"step": 10, "val/loss": 1.0, "val/top1": 2.0, "train/loss": 1.0}]
        write_record(tmp_path / f"runs/lit/lion-s{seed}-a", optimizer, seed=seed, rows=rows)
    for path in build(tmp_path).glob("*.html"):
        for head in re.findall(r"<thead>.*?</thead>", path.read_text(), flags=re.S):
            names = re.findall(r"<th[^>]*>(.*?)</th>", head, flags=re.S)
            assert len(names) == len(set(names)), f"{path.name}: {names}"


def test_clicks_on_charts_lead_to_places_of_the_page(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(diverged=[(1, "lion")], numbers=range(7))
    page = Page(build(tmp_path) / STUDY_PAGE)
    traces = [trace for chart in page.data["charts"].values() for trace in chart["data"] if "customdata" in trace]
    targets = {str(place) for trace in traces for place in trace["customdata"]}
    assert len(targets) == 5 + 1, "five replicates that count and one that reproduces"
    assert {run["place"] for run in page.data["runs"]} == {f"replicate-lion-{number}" for number in range(7)}
    assert targets | {run["place"] for run in page.data["runs"]} <= set(page.ids)


def test_plotly_knows_every_property_of_the_charts(write_study: WriteStudy, tmp_path: Path) -> None:
    import plotly.graph_objects as go

    write_study(numbers=range(7))
    charts = Page(build(tmp_path) / STUDY_PAGE).data["charts"]
    charts = json.loads(re.sub(r'"--\w+"', '"red"', json.dumps(charts))).values()  # page.js inserts a theme's colours
    assert [len(go.Figure(chart).data) for chart in charts] == [3, 3, 2 * 6 + 2, *[3] * 8]


def test_the_searches_show_every_trial_and_no_diverged_one_as_a_value(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(stages=(20, 4))
    charts = Page(build(tmp_path) / STUDY_PAGE).data["charts"]
    trials = [run for each in read_replicates(study) for run in each.of("lion", "search")]
    known, best, lost = charts["search-1"]["data"]
    assert sorted(known["x"]) == sorted(run.unit[0] for run in trials if not run.diverged)
    assert sorted(lost["x"]) == sorted(run.unit[0] for run in trials if run.diverged)
    assert lost["yaxis"] == "y2", "they lie in a band of their own"
    worse, band = (charts["search-1"]["layout"][axis]["domain"] for axis in ("yaxis", "yaxis2"))
    assert worse[1] < band[0], "which is above the others, where lower is better"
    assert len(best["x"]) == 6, "a winner a replicate"
    assert all(": diverged" in text for text in lost["text"])


def test_differences_and_interval_are_those_of_the_summary(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(diverged=[(0, "lion"), (1, "lion")])
    comparison = json.loads((study / "summary.json").read_text())["comparisons"][0]
    replicates, mean = Page(build(tmp_path) / STUDY_PAGE).data["charts"]["differences-0"]["data"]
    assert replicates["x"] == ["2", "3", "4", "5"]
    assert np.mean(replicates["y"]) == pytest.approx(comparison["difference"]["mean"])
    assert mean["y"][0] - mean["error_y"]["arrayminus"][0] == pytest.approx(comparison["difference"]["ci95"][0])
    assert mean["y"][0] + mean["error_y"]["array"][0] == pytest.approx(comparison["difference"]["ci95"][1])
    assert replicates["marker"]["color"] == COLORS["lion"]
    layout = Page(tmp_path / "dashboard" / STUDY_PAGE).data["charts"]["differences-0"]["layout"]
    assert layout["xaxis"]["title"]["text"] == "replicate"
    assert layout["yaxis"]["title"]["text"].startswith("above 0: AdamW is better"), "of a loss"
    (margin,) = (shape for shape in layout["shapes"] if "fillcolor" in shape)
    assert (margin["x0"], margin["x1"]) == (4 - 0.4, 4 + 0.4), "behind the mean only, which a tie is about"


def test_one_replicate_is_not_told_of_charts_that_it_lacks(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(numbers=[0])
    write_study("lit", numbers=range(2))
    folder = build(tmp_path)
    assert "the diamond is the mean" not in Page(folder / STUDY_PAGE).text
    assert "the diamond is the mean" in Page(folder / "lit--mini--mini.html").text


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, {"name": "lion", "lr": 1e-3}, status="failed")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"reason": "RuntimeError: no <memory> is left"}))
    (page,) = (Page(path) for path in build(tmp_path).glob("lit-*.html"))
    assert "RuntimeError: no <memory> is left" in page.text


def contrast(color: str, ground: str) -> float:
    """The contrast ratio of WCAG 2.2, for colours like ``#0072B2``."""

    def luminance(of: str) -> float:
        shares = [int(of[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted(map(luminance, (color, ground)))
    return (high + 0.05) / (low + 0.05)


def test_every_optimizer_can_be_seen_in_the_dark_theme() -> None:
    ground = re.findall(r"--paper: (#\w{6})", (ASSETS / "page.css").read_text())[0]
    shown = [ON_DARK.get(color, color) for color in (*COLORS.values(), *SPARE_COLORS)]
    assert min(contrast(color, ground) for color in shown) > 4.5, "3 is needed for graphics, 4.5 for text"
    assert len(set(shown)) == len(shown)


def test_evaluations_get_their_seconds_from_the_training_rows_around_them() -> None:
    rows: list[dict[str, float]] = [
        {"step": 0, "samples": 0, "val/top1": 10.0},
        {"step": 10, "samples": 320, "train/loss": 2.0, "time/train_s": 4.0},
        {"step": 15, "samples": 480, "val/top1": 20.0},
        {"step": 20, "samples": 640, "train/loss": 1.0, "time/train_s": 6.0},
        {"step": 25, "samples": 800, "val/top1": 30.0},
    ]
    assert columns(rows, ["train/loss", "val/top1", "val/loss"]) == {
        "step": [0, 10, 15, 20, 25],
        "samples": [0, 320, 480, 640, 800],
        "seconds": [0.0, 4.0, 5.0, 6.0, None],
        "train/loss": [None, 2.0, None, 1.0, None],
        "val/top1": [10.0, None, 20.0, None, 30.0],
    }


def test_curves_hold_every_row_of_a_run(write_study: WriteStudy, tmp_path: Path) -> None:
    run = read_replicates(write_study())[3].of("lion", "confirm")[1]
    data = Page(build(tmp_path) / STUDY_PAGE).data
    (shown,) = (each["columns"] for each in data["runs"] if run.run_id in each["label"])
    assert shown["samples"] == [row["samples"] for row in run.rows]
    assert shown["seconds"] == pytest.approx([row["step"] / 20 for row in run.rows])
    assert shown["train/loss"] == [
        pytest.approx(row["train/loss"], rel=1e-5) if "train/loss" in row else None for row in run.rows
    ]
    assert list(data["panels"].values()) == ["val/loss", "val/top1", "train/loss"], "the search's metric leads"


def test_open_runs_are_grouped_by_data_model_and_sources(write_study: WriteStudy, tmp_path: Path) -> None:
    published = read_replicates(write_study(numbers=[0]))[0].of("lion", "search")[0]
    runs = tmp_path / "runs" / "image_classification"
    write_record(runs / published.run_id, {"name": "lion", "lr": 1e-3}, digest="abcdef0123456789-lion")
    write_record(runs / "lion-s1-0123456789", {"name": "lion", "lr": 1e-3}, digest="other-lion", status="running")
    write_record(runs / "adamw-s100-a", {"name": "adamw", "lr": 1e-2}, digest="other-adamw", seed=100, test=False)
    write_record(runs / "adamw-s1-b", {"name": "adamw", "lr": 1e-2}, digest="other-adamw", data="mnist5k")
    write_record(runs / ".superseded" / "lion-s0-c", {"name": "lion", "lr": 1e-2})
    (runs / "lion-s9-not-started").mkdir()
    with held(runs / "lion-s1-0123456789"):
        groups = open_studies(tmp_path / "runs", published_studies(tmp_path / "results"))
    assert {group.title: sorted(run.id for run in group.runs) for group in groups} == {
        "image classification: cifar10, ConvNet, 200 steps of 128": ["adamw-s100-a", "lion-s1-0123456789"],
        "image classification: mnist5k, ConvNet, 200 steps of 128": ["adamw-s1-b"],
    }
    assert {str(group.states) for group in groups} == {"{'complete': 1, 'running': 1}", "{'complete': 1}"}
    assert broken_links(build(tmp_path)) == []


def test_a_run_that_no_process_holds_any_more_is_interrupted(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, {"name": "lion", "lr": 1e-3}, status="running")
    with held(run):
        assert open_studies(tmp_path / "runs", [])[0].states == {"running": 1}
    assert open_studies(tmp_path / "runs", [])[0].states == {"interrupted": 1}


def test_a_saved_run_shows_the_step_that_it_goes_on_from(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, {"name": "lion", "lr": 1e-3}, status="running")  # its last row is that of step 100
    assert open_studies(tmp_path / "runs", [])[0].runs[0].step == 0, "nothing was saved"
    for step in (95, 117):
        (run / f"step-{step:08d}-0123456789abcdef.pt").touch()
        assert open_studies(tmp_path / "runs", [])[0].runs[0].step == step
    with held(run):
        assert open_studies(tmp_path / "runs", [])[0].runs[0].step == 117
    assert "117 of 200" in next(Page(path).text for path in build(tmp_path).glob("lit-*.html"))


def test_settings_in_which_runs_differ_are_columns_and_filters(tmp_path: Path) -> None:
    for number in range(18):
        lr, decay = 1e-3 * (1 + number // 2), [None, 0.1][number % 2]
        optimizer = {"name": "lion", "_target_": "lion.Lion", "lr": lr, "weight_decay": decay, "betas": [0.9, 0.99]}
        write_record(tmp_path / f"runs/lit/lion-s{number % 3}-{number}", optimizer, seed=number % 3)
    adamw = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "fused": True}  # in which AdamW's runs do not differ
    write_record(tmp_path / "runs/lit/adamw-s0-0", adamw)
    (study,) = open_studies(tmp_path / "runs", [])
    assert swept_keys(study.runs) == ["optimizer.lr", "optimizer.weight_decay", "seed"]
    (path,) = build(tmp_path).glob("lit-*.html")
    page = Page(path)
    for name in ("lr", "weight_decay", "seed"):
        assert f"<th>{name}</th>" in path.read_text()
    keys = [attributes.get("data-key") for tag, attributes in page.tags if tag == "fieldset"]
    assert keys == ["optimizer", None, None, "lr", "weight_decay", "seed"]
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "input"].count("number") == 2, (
        "of nine rates, the lowest and the highest"
    )
    settings = {"optimizer": "lion", "purpose": "reported", "lr": 5e-3, "weight_decay": "", "seed": "2"}
    assert page.data["runs"][-1]["settings"] == settings, "those of lion-s2-8"
    assert len({run["kind"] for run in page.data["runs"]}) == 19, "no two of them differ in nothing but their seed"


def test_a_run_without_rows_yet_has_a_page(tmp_path: Path) -> None:
    write_record(tmp_path / "runs/lit/lion-s0-a", {"name": "lion", "lr": 1e-3}, rows=[], status="running")
    assert "0 of 200" in Page(build(tmp_path) / "index.html").text


def test_names_that_are_html_stay_text(write_study: WriteStudy, tmp_path: Path) -> None:
    hostile = "<script>alert(1)<img src=x onerror=alert(2)>[x](http:evil)"
    study = write_study(optimizers=("lion", "adamw", hostile), numbers=range(2))
    summary = json.loads((study / "summary.json").read_text())
    summary["margin_reason"] = summary["data"]["name"] = summary["generated"] = f"</script>{hostile}"
    (study / "summary.json").write_text(json.dumps(summary))
    write_record(
        tmp_path / "runs" / "lit" / f"{hostile}-s0-a", {"name": hostile, "lr": 1e-3}, data=f"</script>{hostile}"
    )
    folder = build(tmp_path)
    assert broken_links(folder) == []
    for path in folder.glob("*.html"):
        page = Page(path)
        assert hostile in page.text
        assert [tag for tag, _ in page.tags].count("script") == (0 if path.stem == "index" else 3)
        assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.tags)
        assert not re.search(r'<script id="data"[^>]*>[^<]*<(?!/script>\n)', path.read_text()), "data ends its script"
        assert not any("<" in run["label"] + run["kind"] for run in page.data.get("runs", [])), "shown as HTML"
        assert not any("evil" in link and "%" not in link for link in page.links)


def test_no_page_asks_for_anything_but_the_files_beside_it(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study()
    folder = build(tmp_path)
    for path in [*folder.glob("*.html"), folder / "page.css", folder / "page.js"]:
        assert not re.search(
            r"(https?:)?//[a-z]|@import|url\(", re.sub(r"^\s*//.*| // .*", "", path.read_text(), flags=re.M)
        )
    sources = {
        value
        for path in folder.glob("*.html")
        for tag, attributes in Page(path).tags
        for key, value in attributes.items()
        if key == "src" or (tag == "link" and key == "href")
    }
    assert sources == {"page.css", "page.js", "plotly.min.js", "data:,"}


def test_the_same_records_give_the_same_bytes_and_old_pages_go(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study()
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, {"name": "lion", "lr": 1e-3})
    folder = build(tmp_path)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    foreign = folder / "notes.html"
    foreign.write_text("<p>mine</p>")
    build(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path != foreign} == made
    for file in run.iterdir():
        file.unlink()
    build(tmp_path)
    left = {path.name for path in folder.glob("*.html")}
    assert left == {"index.html", STUDY_PAGE, "notes.html"}


def test_the_command_serves_this_machine_only(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(gain=0.1)
    command = [sys.executable, "-m", "experiments.report.dashboard", "--results", str(tmp_path / "results")]
    command += ["--runs", str(tmp_path / "runs"), "--serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == str(tmp_path / "runs" / "dashboard" / "index.html")
        address = process.stdout.readline().split()[0]
        try:
            assert address.startswith("http://127.0.0.1:")
            assert b"Lion beats AdamW" in urllib.request.urlopen(address, timeout=10).read()
        finally:
            process.terminate()


def test_the_command_names_folders_that_do_not_exist(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.report.dashboard", "--results", str(tmp_path / "a")]
    result = subprocess.run(
        [*command, "--runs", str(tmp_path / "b")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: There is neither ")


def test_a_real_study_and_a_run_beside_it_have_their_pages(command_line: list[str], tmp_path: Path) -> None:
    python, module, task, *common = command_line
    study = [python, module, task, "--multirun", "hydra/sweeper=study", *common, "optimizer=lion,adamw"]
    for command in (study, [*command_line, "optimizer=lion", "train.steps=6"]):
        result = forked.run(command)
        assert result.returncode == 0, result.stderr
    folder = build(tmp_path)
    assert broken_links(folder) == []
    (finished,) = (Page(path) for path in folder.glob("image_classification--smoke--*.html"))
    assert len(finished.data["runs"]) == 2, "a replicate of smoke confirms each optimizer once"
    assert {"train/loss", "val/top1"} <= set(finished.data["panels"].values())
    for run in finished.data["runs"]:
        assert None not in run["columns"]["seconds"], "the training clock of a finished run reaches its last evaluation"
        assert run["columns"]["seconds"] == sorted(run["columns"]["seconds"])
    (other,) = (Page(path) for path in folder.glob("image_classification-*.html") if "--" not in path.name)
    assert "patterns, ConvNet, 6 steps of 32" in other.text
    assert "6 of 6" in other.text
