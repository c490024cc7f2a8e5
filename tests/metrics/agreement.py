"""Compare every declared metric with an independent implementation; docs/metrics.md has the largest difference seen.

python -m tests.metrics.agreement   # measure again and write docs/metrics.md
"""

import tests.conftest  # isort: skip  # noqa: F401  # pins the instruction set, before NumPy is loaded

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.harness.metric import metrics_of
from experiments.harness.source_code import ROOT
from experiments.report.tables import markdown_table
from tests.metrics import implementations as by

DRAWS = 20
"""Random inputs that each metric is computed for."""


@dataclass(frozen=True)
class Check:
    """Some metrics of some tasks, computed by two implementations."""

    tasks: tuple[str, ...]
    names: tuple[str, ...]
    """as they are declared"""
    against: str
    """what the independent one is, in words"""
    compute: Callable[[np.random.Generator], tuple[by.Values, by.Values]]
    """ours and theirs by name, for a random input"""


ALL = ("diffusion", "finetuning", "image_classification", "language_modeling", "lit")
_RECALLS = tuple(f"{way}_recall{rank}" for way in ("i2t", "t2i") for rank in (1, 5, 10))
_ZERO_SHOT = ("zero_shot_top1", "zero_shot_top5", "_top1", "_top5")
_PERPLEXITIES = ("log_perplexity", "perplexity", "bits_per_byte", "word_log_perplexity", "word_perplexity")
_MOMENTS, _KERNELS = ("fid", "fd_efficientnet_lite0"), ("kid", "kid_efficientnet_lite0")
_IMAGES, _TEXTS, _LANGUAGE = ("image_classification",), ("finetuning",), ("language_modeling",)
CHECKS = (
    Check(_IMAGES, ("loss",), "NumPy, float64", by.classification),
    Check(_IMAGES, ("top1", "top5", "v2_top1"), "each row sorted, then counted", by.classification),
    Check((*_IMAGES, *_TEXTS), ("calibrated_loss",), "SciPy's bounded minimization, NumPy in float64", by.calibration),
    Check((*_IMAGES, *_TEXTS), ("calibration_error",), "Python floats, one sample at a time", by.calibration),
    Check(_IMAGES, ("real_top1",), "counting, with Python sets of labels", by.classification),
    Check(_TEXTS, ("loss",), "NumPy, float64", by.texts),
    Check(_TEXTS, ("accuracy",), "counting", by.texts),
    Check(_TEXTS, ("f1",), "SciPy's hmean of precision and recall", by.texts),
    Check(_TEXTS, ("mrpc_f1", "qqp_f1"), "SciPy's hmean of precision and recall", by.glue),
    Check(_TEXTS, ("stsb_pearson", "stsb_spearman"), "SciPy's pearsonr and spearmanr", by.glue),
    Check(_TEXTS, ("cola",), "NumPy, correlation of class indicators", by.glue),
    Check(_TEXTS, ("sst2", "mrpc_accuracy", "qqp_accuracy", "mnli_matched", "mnli_mismatched"), "counting", by.glue),
    Check(_TEXTS, ("qnli", "rte", "average", "invalid_answers"), "counting", by.glue),
    Check(("lit",), ("loss",), "open_clip's ClipLoss, float64", by.pairs),
    Check(("lit",), ("calibrated_loss",), "SciPy's bounded minimization of open_clip's ClipLoss", by.pairs),
    Check(
        ("lit",), ("mean_recall", *_RECALLS, "_mean_recall", *(f"_{name}" for name in _RECALLS)), "sorting", by.pairs
    ),
    Check(("lit",), _ZERO_SHOT, "open_clip's build_zero_shot_classifier, sorting", by.zero_shot),
    Check(_LANGUAGE, ("loss", *_PERPLEXITIES), "lm-evaluation-harness's windows, GPT-2 in float64", by.language),
    Check(("diffusion",), (*_MOMENTS, *_KERNELS), "torch-fidelity, on the same features", by.images),
    Check(("diffusion",), ("clip_score",), "Python floats, on the same vectors", by.clip),
    Check(("diffusion",), ("loss",), "NumPy, float64, with the noise schedule written out", by.noise),
    Check(ALL, ("train_loss", "perturbed_loss"), "NumPy, float64, with the same noise", by.flatness),
)


def differences(check: Check, draws: int, seed: int = 0) -> dict[str, float]:
    """The largest difference of each metric over ``draws`` random inputs, relative to the independent value."""
    largest = dict.fromkeys(check.names, 0.0)
    for draw in range(draws):
        ours, theirs = check.compute(np.random.default_rng((seed, draw)))
        for name in check.names:
            largest[name] = max(largest[name], abs(ours[name] - theirs[name]) / abs(theirs[name]))
    return largest


def page() -> str:
    """docs/metrics.md."""
    rows = []
    for check in CHECKS:
        for name, difference in differences(check, DRAWS).items():
            metric = metrics_of(check.tasks[0])[name]
            task = "all" if check.tasks == ALL else check.tasks[0]
            shown = f"`<set>{name}`" if metric.sets else f"`{name}`"
            largest = f"{difference:.0e}" if difference else "0"
            rows.append([shown, task, metric.unit, metric.better, check.against, largest])
    head = ["metric", "task", "unit", "better", "independent implementation", "largest difference"]
    return f"""# Metrics, checked against independent implementations

Every metric that a task declares (METRICS in `experiments/<task>/config.py`) is computed by the suite and by an
independent implementation on {DRAWS} random inputs. The last column is the largest relative difference between the two.
`python -m tests.metrics.agreement` repeats the comparison and writes this page; `tests/metrics/test_agreement.py`
compares the two on other inputs.

{markdown_table(head, rows)}
"""


if __name__ == "__main__":
    (ROOT / "docs/metrics.md").write_text(page())
