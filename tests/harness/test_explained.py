"""The error messages for a user's own module that is broken, and for a lack of memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from experiments.harness.explained import explained, one_sentence


def test_the_message_names_the_root_cause_of_a_failed_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken_module.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": "my_broken_module.Vote"})
    sentence = explained(raised.value)
    assert "Error locating target 'my_broken_module.Vote'" in sentence
    assert "Python finds no module or class no_such_package." in sentence
    assert "HYDRA_FULL_ERROR" not in sentence


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: np.empty(2**60, np.uint8),
    ],
)
def test_a_lack_of_memory_is_one_sentence_with_advice(
    allocate: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited, one_sentence():
        allocate()
    assert exited.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: The run needs more memory than there is: lower train.micro_batch_size")
    assert said.count("\n") == 1


def test_another_fault_in_the_code_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="shape"), one_sentence():
        torch.zeros(3).view(2)
