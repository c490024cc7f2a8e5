"""The metrics that a study uses, with the directions that their declarations give."""

from collections.abc import Mapping
from typing import Any

from experiments.harness.errors import ConfigError
from experiments.harness.metric import Metric, find, metrics_of


def with_directions(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study from a run's resolved config, with ``better`` and ``validation_better`` (higher or lower)
    and a direction for each secondary metric.

    Raises ConfigError for a metric that the task does not declare, or does not measure on that split or set.
    """
    study = config["study"]
    validation = _declared(config, "validation_metric", study["validation_metric"])
    if not study["validation_metric"].startswith("val/"):
        raise ConfigError(
            f"study.validation_metric={study['validation_metric']} is not measured during the search, which uses only "
            "the split val."
        )
    primary = _declared(config, "primary_metric", study["primary_metric"])
    secondary = {name: _declared(config, "secondary_metrics", name).better for name in study["secondary_metrics"]}
    secondary.pop(study["primary_metric"], None)
    directions = {"better": primary.better, "validation_better": validation.better, "secondary_metrics": secondary}
    if headline := study["headline_metric"]:
        metric = _declared(config, "headline_metric", headline)
        if headline not in secondary or not headline.startswith("test/") or "val" not in metric.splits:
            raise ConfigError(
                f"study.headline_metric={headline} must be one of study.secondary_metrics, test/<name>, and also "
                "measured on val, where its winners are chosen."
            )
        directions["headline_better"] = metric.better
    return {**study, **directions}


def _declared(config: Mapping[str, Any], key: str, name: str) -> Metric:
    metrics = metrics_of(config["task"])
    metric = find(metrics, name)
    split = name.partition("/")[0]
    if metric is None or "/" not in name:
        known = ", ".join(sorted(metrics))
        raise ConfigError(f"study.{key} names {name}, but {config['task']} declares no such metric: {known}.")
    if metric.of_set and metric.of_set not in config["data"].get(metric.sets, {}):
        there = ", ".join(config["data"].get(metric.sets, {})) or "none"
        raise ConfigError(f"study.{key} names {name}, but data.{metric.sets} has no {metric.of_set}: {there}.")
    if split not in metric.splits:
        raise ConfigError(f"study.{key} names {name}, which is measured only on {' and '.join(metric.splits)}.")
    if split == "flatness" and not config["flatness"]["draws"]:
        raise ConfigError(f"study.{key} names {name}, but flatness.draws=0 turns that measurement off.")
    if split == "samples" and not config["train"]["sample_every"]:
        raise ConfigError(f"study.{key} names {name}, but train.sample_every=null generates no samples.")
    return metric
