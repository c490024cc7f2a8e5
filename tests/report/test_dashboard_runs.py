"""The dashboard's pages of runs that belong to no published study."""

import json
from pathlib import Path

from experiments.harness.record import take_lock
from experiments.report.dashboard.records import open_studies, published_studies
from experiments.report.dashboard.run_sections import swept_settings
from experiments.study.replicates import read_replicates
from tests.report.conftest import WriteStudy
from tests.report.dashboard import broken_links, build, built, write_record


def test_a_failed_runs_page_gives_the_reason(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, status="failed")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"reason": "RuntimeError: no <memory> is left"}))
    page = built(tmp_path, "lit-*.html")
    assert "RuntimeError: no <memory> is left" in page.text


def test_unpublished_runs_are_grouped_by_data_model_and_sources(write_study: WriteStudy, tmp_path: Path) -> None:
    published = read_replicates(write_study(numbers=[0]))[0].of("lion", "search")[0]
    runs = tmp_path / "runs" / "image_classification"
    write_record(runs / published.run_id, digest="abcdef0123456789-lion")
    write_record(runs / "lion-s1-0123456789", digest="other-lion", status="running")
    write_record(runs / "adamw-s100-a", {"name": "adamw", "lr": 1e-2}, digest="other-adamw", seed=100, test=False)
    write_record(runs / "adamw-s1-b", {"name": "adamw", "lr": 1e-2}, digest="other-adamw", data="mnist5k")
    write_record(runs / ".superseded" / "lion-s0-c", {"name": "lion", "lr": 1e-2})
    (runs / "lion-s9-not-started").mkdir()
    with take_lock(runs / "lion-s1-0123456789"):
        groups = open_studies(tmp_path / "runs", published_studies(tmp_path / "results"))
    assert {group.title: sorted(run.id for run in group.runs) for group in groups} == {
        "image classification: cifar10, ConvNet, 200 steps of 128": ["adamw-s100-a", "lion-s1-0123456789"],
        "image classification: mnist5k, ConvNet, 200 steps of 128": ["adamw-s1-b"],
    }
    assert {str(group.states) for group in groups} == {"{'complete': 1, 'running': 1}", "{'complete': 1}"}
    assert broken_links(build(tmp_path)) == []


def test_a_running_status_without_a_process_counts_as_interrupted(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, status="running")
    with take_lock(run):
        assert open_studies(tmp_path / "runs", [])[0].states == {"running": 1}
    assert open_studies(tmp_path / "runs", [])[0].states == {"interrupted": 1}


def test_an_interrupted_run_shows_the_step_of_its_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lit" / "lion-s0-a"
    write_record(run, status="running")  # its last row is that of step 100
    assert open_studies(tmp_path / "runs", [])[0].runs[0].step == 0, "nothing was saved"
    for step in (95, 117):
        (run / f"step-{step:08d}-0123456789abcdef.pt").touch()
        assert open_studies(tmp_path / "runs", [])[0].runs[0].step == step
    with take_lock(run):
        assert open_studies(tmp_path / "runs", [])[0].runs[0].step == 117
    assert "117 of 200" in built(tmp_path, "lit-*.html").text


def test_differing_settings_of_runs_become_columns_and_filters(tmp_path: Path) -> None:
    for number in range(18):
        lr, decay = 1e-3 * (1 + number // 2), [None, 0.1][number % 2]
        optimizer = {"name": "lion", "_target_": "lion.Lion", "lr": lr, "weight_decay": decay, "betas": [0.9, 0.99]}
        write_record(tmp_path / f"runs/lit/lion-s{number % 3}-{number}", optimizer, seed=number % 3)
    adamw = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "fused": True}  # in which AdamW's runs do not differ
    write_record(tmp_path / "runs/lit/adamw-s0-0", adamw)
    (study,) = open_studies(tmp_path / "runs", [])
    assert list(swept_settings(study.runs)["adamw-s0-0"]) == ["lr", "weight_decay", "seed"]
    page = built(tmp_path, "lit-*.html")
    for name in ("lr", "weight_decay", "seed"):
        assert f"<th>{name}</th>" in page.html
    keys = [attributes.get("data-key") for tag, attributes in page.tags if tag == "fieldset"]
    assert keys == ["optimizer", None, None, "lr", "weight_decay", "seed"]
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "input"].count("number") == 2, (
        "of nine rates, the lowest and the highest"
    )
    settings = {"optimizer": "lion", "purpose": "reported", "lr": 5e-3, "weight_decay": "", "seed": "2"}
    assert page.data["runs"][-1]["settings"] == settings, "those of lion-s2-8"
    assert len({run["kind"] for run in page.data["runs"]}) == 19, "no two of them differ in nothing but their seed"


def test_a_run_without_rows_has_a_page(tmp_path: Path) -> None:
    write_record(tmp_path / "runs/lit/lion-s0-a", rows=[], status="running")
    assert "0 of 200" in built(tmp_path, "index.html").text
