"""Every metric that a task declares agrees with an independent implementation and is listed in docs/metrics.md."""

import pytest

from experiments.harness.metric import metrics_of
from experiments.harness.provenance import ROOT
from tests.metrics.agreement import ALL, CHECKS, Check, differences


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.tasks[-1]}-{check.names[0]}")
def test_a_metric_is_what_another_implementation_makes_of_it(check: Check) -> None:
    for name, difference in differences(check, draws=3, seed=1).items():
        assert difference < 2e-5, name


@pytest.mark.parametrize("task", ALL)
def test_no_declared_metric_is_left_out(task: str) -> None:
    checked = {name for check in CHECKS if task in check.tasks for name in check.names}
    assert set(metrics_of(task)) == checked


def test_the_page_names_them_all() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    for check in CHECKS:
        for name in check.names:
            assert f"{name}`" in page, name
