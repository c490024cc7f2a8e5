"""The error message for a user's own module that is broken."""

from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from experiments.harness.explained import explained


def test_the_message_names_the_root_cause_of_a_failed_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken_module.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": "my_broken_module.Vote"})
    sentence = explained(raised.value)
    assert "Error locating target 'my_broken_module.Vote'" in sentence
    assert "Python finds no module or class no_such_package." in sentence
    assert "HYDRA_FULL_ERROR" not in sentence
