import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness.entry import execute
from experiments.harness.errors import RunError
from experiments.harness.run import locate
from experiments.harness.source_code import ROOT
from experiments.lit.retrieval_sheet import write_sheet
from tests.conftest import MakeConfig, executed, unpinned
from tests.every_task.conftest import SHORT


def test_the_retrieval_sheet_shows_each_query_with_its_five_nearest(make_lit: MakeConfig) -> None:
    cfg = make_lit(*SHORT)
    page = write_sheet(executed(cfg), cfg).read_text(encoding="utf-8")
    assert page.count("<tr>") == 2 * 12  # each of the 12 test images is a query
    assert page.count("class='right'") + page.count("class='wrong'") == 2 * 12 * 5
    assert page.count("data:image/png") == 12 + 12 * 5
    assert "http" not in page


@pytest.mark.slow
def test_the_command_draws_a_run_whose_instruction_set_is_pinned(
    make_lit: MakeConfig, smoke: list[str], shapes: list[str]
) -> None:
    directory = executed(make_lit())
    command = [sys.executable, "-m", "experiments.lit.retrieval_sheet", f"run={directory}", *smoke, *shapes]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=unpinned())
    assert result.stdout == f"{directory / 'sheet.html'}\n", result.stderr


def test_a_retrieval_sheet_without_a_run_is_refused(make_lit: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"There is no run in {tmp_path}"):
        write_sheet(tmp_path, make_lit())


def test_a_retrieval_sheet_of_a_different_model_is_refused(make_lit: MakeConfig) -> None:
    cfg = make_lit(*SHORT)
    execute(cfg)
    with pytest.raises(RunError, match="different model"):
        write_sheet(locate(cfg).directory, make_lit(*SHORT, "model.embed_dim=24"))


def test_a_retrieval_sheet_without_a_checkpoint_is_refused(make_lit: MakeConfig) -> None:
    cfg = make_lit(*SHORT)
    directory = executed(cfg)
    for path in directory.glob("step-*.pt"):
        path.unlink()
    with pytest.raises(RunError, match="no checkpoint"):
        write_sheet(directory, cfg)
