"""The page of a study, the terminal, and the commands that rebuild pages."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from rich.console import Console

from experiments.harness.errors import DataError
from experiments.harness.source_code import ROOT
from experiments.report.overview import front_page
from experiments.report.readme import study_page
from experiments.report.rebuild import read_summary, write_between_marks, write_report
from experiments.report.rebuild import write_study as write_page
from experiments.report.terminal import dashboard_command, print_verdict
from tests.report.conftest import WriteStudy
from tests.synthetic_study import PAPER


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)


def broken_links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text())
    return [target for target in targets if not (page.parent / unquote(target)).is_file()]


def test_a_study_page_puts_regime_verdict_and_reproduction_first(write_study: WriteStudy) -> None:
    directory = write_study(gain=0.1, numbers=range(7))
    write_page(directory)
    page = (directory / "README.md").read_text()
    paragraphs = page.split("\n\n")
    assert paragraphs[0] == "# Lion against AdamW: image classification, scale mini, experiment mini"
    assert paragraphs[1].startswith("Model: ConvNet, 0.24 M parameters; training: ")
    assert paragraphs[2].startswith("**Lion beats AdamW by ")
    assert paragraphs[3].startswith("In steps: Lion needs ")
    assert re.match(r"- Committed: .*\n- Reproduction \(replicate 6\): ", paragraphs[4])
    assert headings(page)[1:] == [
        "Ease of tuning",
        "Result: Lion - AdamW",
        "Search",
        "Speed-up: Lion - AdamW",
        "Cost",
        "What was redrawn in each replicate",
        "Every replicate: Lion - AdamW",
        "Hardware, packages and sources",
    ]
    for fact in ("an imagined processor", "torch 2.15.0", "abcdef0123456789", "f" * 16, "exact sign-flip test"):
        assert fact in page
    assert page.count("![") == 4
    assert not re.search(r"\b(None|nan|inf)\b", page)


@pytest.mark.parametrize(
    ("arguments", "first_words"),
    [
        ({"numbers": [0]}, "**Exploratory (replicates 0; 6 were declared): No verdict: one replicate gives no"),
        ({"numbers": range(2)}, "**Exploratory (replicates 0 to 1; 6 were declared): No verdict: a verdict needs 4"),
        ({"numbers": range(5), "gain": 0.1}, "**Exploratory (replicates 0 to 4; 6 were declared): Lion beats "),
        ({"declared": 0, "numbers": [0]}, "**No verdict: smoke. This scale only exercises the code"),
        ({"diverged": [(n, "lion") for n in range(6)]}, "**AdamW beats Lion, whose confirm runs diverged"),
        ({"diverged": [(n, name) for n in range(6) for name in ("lion", "adamw")]}, "**Undecided, because confirm"),
        ({"lengths": (), "gain": 0.1}, "**Lion beats AdamW by "),
        (PAPER, "**No verdict: a verdict needs 4 replicates"),
        ({"stages": (3,), "confirm": 1, "gain": 0.1}, "**Lion beats AdamW by "),
        ({"optimizers": ("lion", "adamw", "sgd"), "gain": 0.1}, "**Lion beats AdamW by "),
    ],
)
def test_incomplete_studies_have_a_page_that_says_what_is_missing(
    write_study: WriteStudy, arguments: dict[str, Any], first_words: str
) -> None:
    directory = write_study(scale="smoke" if arguments.get("declared") == 0 else "mini", **arguments)
    write_page(directory)
    page = (directory / "README.md").read_text()
    assert page.split("\n\n")[2].startswith(first_words)
    assert not re.search(r"\b(None|nan|inf)\b", page)
    assert broken_links(directory / "README.md") == []


def test_the_terminal_prints_regime_verdict_and_reproduction(write_study: WriteStudy) -> None:
    def shown(**arguments: Any) -> str:
        output = io.StringIO()
        directory = write_study(**arguments)
        runs = directory.parents[2] / "my runs"
        print_verdict(read_summary(directory), directory, runs, Console(file=output, width=100))
        return output.getvalue()

    lines = shown(gain=0.1, numbers=range(7)).splitlines()
    table_end = next(n for n, line in enumerate(lines) if line.startswith("└"))
    first_words = ["Model:", "Lion", "In", "Committed:", "Reproduction", "Full"]
    assert [line.partition(" ")[0] for line in lines[table_end + 1 :]] == first_words
    assert re.search(r"side the 95 % prediction interval for one replicate \(.*\): (not )?consistent\.$", lines[-2])
    assert re.search(
        r"README\.md; `python -m experiments\.report\.dashboard --results \S+ --runs '\S+/my runs'` shows it", lines[-1]
    )
    own = shown(experiment="own", gain=0.1, numbers=[0]).splitlines()
    assert own[-1].startswith("Next: An interval needs 2 replicates and a verdict 4: the same command with study.num")
    smoke = shown(scale="smoke", declared=0, numbers=[0])
    assert "No verdict: smoke" in smoke
    assert (
        "Next: the same command without scale=smoke (with make, without SCALE=smoke) gives meaningful numbers" in smoke
    )


def test_make_dashboard_is_suggested_only_for_the_default_folders(tmp_path: Path) -> None:
    for results in ("results", "runs/results"):
        assert dashboard_command(ROOT / results, ROOT / "runs") == "make dashboard"
    elsewhere = dashboard_command(tmp_path / "results", ROOT / "runs")
    assert elsewhere.startswith(f"python -m experiments.report.dashboard --results {tmp_path}/results --runs ")


def test_printing_a_verdict_imports_neither_matplotlib_nor_torch() -> None:
    modules = {"matplotlib", "scipy.stats", "torch"}
    check = f"import sys, experiments.report.terminal; sys.exit(len({modules} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_rebuilding_the_report_is_reproducible_without_broken_links_or_stale_figures(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    stale = write_study(numbers=range(3), samples=True) / "paired-differences-sgd-adamw.png"
    stale.write_bytes(b"")
    write_study("lit", "mini", "mini-optimizer.betas=[0.9,0.95]", numbers=range(2), stages=())
    results = tmp_path / "results"
    assert len(write_report(results)) == 2
    assert not stale.exists()
    made = {path: path.read_bytes() for path in results.rglob("*") if path.suffix in (".md", ".png", ".json")}
    write_report(results)
    assert {path: path.read_bytes() for path in made} == made
    assert [broken_links(path) for path in made if path.suffix == ".md"] == [[], [], []]


def test_an_unreadable_study_does_not_block_the_report_of_others(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = write_study("lit", numbers=[0]), write_study(numbers=[0])
    (old / "study.json").write_text('{"schema": 1}')
    (old / "summary.json").write_text('{"schema": 1}')
    with pytest.raises(DataError, match=r"summary.json has schema 1, but this report reads 3"):
        read_summary(old)
    assert write_report(tmp_path / "results") == [new]
    assert "Left as it is" in capsys.readouterr().out
    assert "lit/" not in (tmp_path / "results/README.md").read_text()


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("experiments.report", ["{}/nowhere"], "There is no folder {}/nowhere"),
        ("experiments.report.samples", ["run={}", "out={}/a.png"], "{} has no samples.png"),
        ("experiments.report.dashboard", ["--results={}/a", "--runs={}/b"], "There is neither {}/a nor {}/b"),
        ("experiments.report.wandb_sync", ["{}"], "There is no W&B account"),
        ("experiments.report.wandb_workspaces", ["smoke"], "There is no W&B account for workspaces: set WANDB_API_KEY"),
        ("experiments.report.wandb_workspaces", ["nonsense"], "No task has an experiment nonsense"),
    ],
)
def test_the_reports_commands_refuse_in_one_sentence_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "")
    command = [sys.executable, "-m", module, *(argument.replace("{}", str(tmp_path)) for argument in arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: {message.replace('{}', str(tmp_path))}")


def test_only_the_marked_section_of_the_front_page_is_replaced(tmp_path: Path, write_study: WriteStudy) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results: made by `make report` -->\nold\n<!-- end of results -->\nafter\n")
    folder = "image_classification/mini/mini"
    for _ in range(2):
        write_between_marks(page, front_page({folder: read_summary(write_study())}))
    text = page.read_text()
    assert text.startswith("before\n<!-- results")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in text
    assert text.count(f"| [image classification, cifar10](results/{folder}/README.md) | mini/mini |") == 1


def test_html_in_names_is_escaped_on_a_study_page(write_study: WriteStudy) -> None:
    summary = read_summary(write_study(numbers=range(2)))
    summary["data"]["name"] = summary["regime"]["model"] = summary["margin_reason"] = "<script>x</script>"
    assert "<script>" not in study_page(summary, [])
