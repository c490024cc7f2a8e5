"""The dashboard's pages: their content, their links, and that no text in them is executed."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

from experiments.harness.record import take_lock
from experiments.harness.source_code import ROOT
from experiments.report.rebuild import read_summary
from experiments.study.replicates import read_replicates
from tests import forked
from tests.report.conftest import WriteStudy
from tests.report.dashboard import STUDY_PAGE, Page, broken_links, build, built, write_record


def test_the_index_links_to_finished_and_running_studies(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(gain=0.1)
    write_study("lit", "mini", "mini-optimizer.betas=[0.9,0.95]", numbers=range(2))
    write_study("finetuning", "smoke", "smoke", numbers=[0], declared=0, stages=())
    run = tmp_path / "runs" / "diffusion" / "lion-s0-0000000000"
    write_record(run, status="running")
    write_record(tmp_path / "runs/diffusion/lion-s1-0000000000", data="mnist5k", steps=100)
    with take_lock(run):
        folder = build(tmp_path)
    index = Page(folder / "index.html")
    assert "Lion beats AdamW by " in index.text
    assert "Exploratory (replicates 0 to 1; 6 were declared): No verdict" in index.text
    assert index.text.count("Model: ConvNet, 0.24 M parameters") == 2
    headings = ["verdict", "Finished studies", "In progress", "100 of 200 steps", "Finished sweeps", "100 of 100 steps"]
    places = [index.text.index(words) for words in [*headings, "Smoke", "no verdict: smoke"]]
    assert places == sorted(places)
    assert index.text.index("1 running") < index.text.index("1 complete"), "what is under way stands above what is not"
    assert len(index.links) == 2 * 2 + 3, "two studies in the forest and below it; smoke; two groups of runs"
    assert broken_links(folder) == []


def test_a_study_page_begins_with_the_statements_of_its_readme(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(gain=0.1, numbers=range(7))
    text = built(tmp_path).text
    said = [
        "Model: ConvNet",
        "Lion beats AdamW by ",
        "In steps: Lion needs ",
        "Committed: ",
        "Reproduction (replicate 6)",
    ]
    places = [text.index(part) for part in said]
    assert places == sorted(places)
    assert "Ease of tuning: " in text


def test_every_replicate_has_a_row_with_the_winners_settings(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(diverged=[(1, "lion")], optimizers=("lion", "adamw", "sgd"), numbers=range(7))
    page = built(tmp_path)
    rows = [f"replicate-{name}-{number}" for name in ("lion", "sgd") for number in range(7)]
    assert [place for place in page.ids if str(place).startswith("replicate-")] == rows
    winner = read_replicates(study)[6].of("lion", "confirm")[0].plain["optimizer"]["lr"]
    (row,) = re.findall(r'id="replicate-lion-6">(.*)</tr>', page.html)
    assert "6 (reproduction)" in row
    assert f"<td>{winner:.4g}</td>" in row
    (row,) = re.findall(r'id="replicate-lion-1">(.*)</tr>', page.html)
    assert "<td>diverged</td>" in row
    assert len(page.ids) == len(set(page.ids))
    assert "hydra/sweeper=study scale=mini" in page.text


def test_no_dashboard_table_has_two_columns_with_the_same_name(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(optimizers=("lion", "adamw", "sgd"), samples=True)
    for seed, decay in enumerate((0.1, 0.2)):
        optimizer = {"name": "lion", "lr": 1e-3, "weight_decay": decay}
        rows = [{"step": 10, "val/loss": 1.0, "val/top1": 2.0, "train/loss": 1.0}]
        write_record(tmp_path / f"runs/lit/lion-s{seed}-a", optimizer, seed=seed, rows=rows)
    for path in build(tmp_path).glob("*.html"):
        for head in re.findall(r"<thead>.*?</thead>", path.read_text(), flags=re.S):
            names = re.findall(r"<th[^>]*>(.*?)</th>", head, flags=re.S)
            assert len(names) == len(set(names)), f"{path.name}: {names}"


def test_html_in_names_is_escaped_on_the_dashboard(write_study: WriteStudy, tmp_path: Path) -> None:
    hostile = "<script>alert(1)<img src=x onerror=alert(2)>[x](http:evil)"
    study = write_study(optimizers=("lion", "adamw", hostile), numbers=range(2))
    summary = read_summary(study)
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
        assert not re.search(r'<script id="data"[^>]*>[^<]*<(?!/script>\n)', page.html), "data ends its script"
        assert not any("<" in run["label"] + run["kind"] for run in page.data.get("runs", [])), "shown as HTML"
        assert not any("evil" in link and "%" not in link for link in page.links)


def test_dashboard_pages_load_only_local_files(write_study: WriteStudy, tmp_path: Path) -> None:
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


def test_rebuilding_the_dashboard_is_reproducible_and_removes_stale_pages(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    write_study()
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run)
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


def test_the_dashboard_command_serves_only_on_localhost(write_study: WriteStudy, tmp_path: Path) -> None:
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


def test_a_real_study_and_a_single_run_get_dashboard_pages(command_line: list[str], tmp_path: Path) -> None:
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
