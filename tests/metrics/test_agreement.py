"""Every metric that a task declares agrees with an independent implementation and is listed in docs/metrics.md."""

import pytest

from experiments.harness.metric import metrics_of
from experiments.harness.source_code import ROOT
from tests.metrics.agreement import ALL, CHECKS, Check, differences


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.tasks[-1]}-{check.names[0]}")
def test_a_metric_agrees_with_an_independent_implementation(check: Check) -> None:
    for name, difference in differences(check, draws=3, seed=1).items():
        assert difference < 2e-5, name


@pytest.mark.parametrize("task", ALL)
def test_every_declared_metric_is_checked(task: str) -> None:
    checked = {name for check in CHECKS if task in check.tasks for name in check.names}
    assert set(metrics_of(task)) == checked


def test_the_metrics_page_lists_every_metric() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    for check in CHECKS:
        for name in check.names:
            assert f"{name}`" in page, name
