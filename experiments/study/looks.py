"""How often a study is judged. Whoever adds seeds until the verdict pleases finds one in the end, so that looks at the
results are declared before the first of them (``study.looks``) and share the 5 %; any other one is exploratory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.study.statistics import ALPHA


def looks_at(path: Path, description: Mapping[str, Any]) -> dict[str, list[int]]:
    """Numbers of confirm seeds: ``declared``, and ``taken`` with the study.json that will replace the one at ``path``.

    A study that continues the published one, by the same sources with the same winners of tuning and a seed in common,
    inherits what was declared and has been looked at before.
    """
    seeds = description["study"]["confirm_seeds"]
    declared = sorted({*description["study"]["looks"]}) or [len(seeds)]
    if path.exists():
        before = json.loads(path.read_text())
        if _identity(before) == _identity(description) and {*seeds} & {*before["study"]["confirm_seeds"]}:
            earlier = before["looks"]
            return {"declared": earlier["declared"], "taken": sorted({*earlier["taken"], len(seeds)})}
    return {"declared": declared, "taken": [len(seeds)]}


def _identity(description: Mapping[str, Any]) -> list[Any]:
    winners = {name: contestant["winner"] for name, contestant in sorted(description["contestants"].items())}
    return [description.get("sources_digest"), winners]


def judged(looks: Mapping[str, list[int]]) -> dict[str, Any]:
    """The looks with the ``alpha`` of each, and whether one was taken that was not declared (``exploratory``)."""
    undeclared = {*looks["taken"]} - {*looks["declared"]}
    return {**looks, "alpha": ALPHA / len(looks["declared"]), "exploratory": bool(undeclared)}
