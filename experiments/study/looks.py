"""How often a study is judged. Whoever adds seeds until the verdict pleases finds one in the end, so that looks at the
results are declared before the first of them (``study.looks``) and share the 5 %; any other one is exploratory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.study.statistics import ALPHA


def looks_at(folder: Path, description: Mapping[str, Any]) -> dict[str, list[int]]:
    """Numbers of confirm seeds: ``declared``, and ``taken`` with the study.json that will be published in ``folder``.

    A study that continues one published there, by the same sources with the same winners of tuning and a seed in
    common, inherits what was declared and has been looked at before.
    """
    seeds = description["study"]["confirm_seeds"]
    declared, taken = sorted({*description["study"]["looks"]}) or [len(seeds)], {len(seeds)}
    for path in sorted(folder.glob("*/study.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            before = json.loads(path.read_bytes())
            if _identity(before) == _identity(description) and {*seeds} & {*before["study"]["confirm_seeds"]}:
                declared, taken = before["looks"]["declared"], taken | {*before["looks"]["taken"]}
        except (ValueError, LookupError, TypeError, AttributeError):
            print(f"{path} is damaged: whether the study was looked at there is not known.", flush=True)
    return {"declared": declared, "taken": sorted(taken)}


def _identity(description: Mapping[str, Any]) -> list[Any]:
    winners = {name: contestant["winner"] for name, contestant in sorted(description["contestants"].items())}
    return [description.get("sources_digest"), winners]


def judged(looks: Mapping[str, list[int]]) -> dict[str, Any]:
    """The looks with the ``alpha`` of each, and whether one was taken that was not declared (``exploratory``)."""
    undeclared = {*looks["taken"]} - {*looks["declared"]}
    return {**looks, "alpha": ALPHA / len(looks["declared"]), "exploratory": bool(undeclared)}
