"""Write results/protocols.md: tuning protocols scored on emulators fitted to the committed trials.

python -m experiments.simulation.protocols_page
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import scipy

from experiments.harness.seeds import derive_seed
from experiments.harness.source_code import ROOT
from experiments.report.labels import dimension_label, metric_label, optimizer_name, percent, significant, task_name
from experiments.report.tables import markdown_table
from experiments.simulation.emulator import Trials
from experiments.simulation.protocols import (
    ALGOPERF,
    CONFIRM_SEEDS,
    RANDOM_POINTS,
    RATES,
    EmulatedSearches,
    outcomes,
    replicated,
)
from experiments.simulation.robustness import by_box, by_budget, cost_of_betas, settled_after, verdict_of
from experiments.simulation.scored import SEARCHES, Scored, protocols_of, searches_of
from experiments.study.statistics import ALPHA, LEAST_REPLICATES
from experiments.study.summary import study_folders
from experiments.study.trials import value_at

TIMES = 200
"""repetitions of each protocol"""


def scores(scored: Scored, found: Mapping[str, EmulatedSearches], rng: np.random.Generator) -> list[list[str]]:
    """One row per protocol: winners of the reference against itself, verdicts on the pair, agreement with the study.
    ``found`` are the suite's searches.
    """
    a, b = scored.sides["a"], scored.sides["b"]
    tried = []  # name, runs per optimizer, outcomes of the reference against itself, outcomes of the pair
    costs = ("1", f"{len(RATES)} + {CONFIRM_SEEDS}", str(math.prod(ALGOPERF)), str(RANDOM_POINTS))
    for (name, protocol), cost in zip(protocols_of(scored, rng).items(), costs, strict=True):
        aa, ab = (outcomes(TIMES, partial(protocol, first, b)) for first in (b, a))
        tried.append((name, cost, aa, ab))
    each_costs = sum(scored.study["stages"]) + scored.study["confirm"]
    for count in sorted({LEAST_REPLICATES, max(LEAST_REPLICATES, scored.study["replicates"])}):

        def whole(first: str, count: int = count) -> str | None:
            drawn = rng.integers(SEARCHES, size=count)
            a, b = (found[name].chosen(drawn) for name in (first, "b"))
            if first == "again":  # by chance the mean of its pool differs from that of b's, where nothing differs
                swap = rng.random(count) < 0.5
                a, b = a.mixed(b, swap), b.mixed(a, swap)
            return replicated(a, b, scored.margin)

        aa, ab = (outcomes(TIMES, partial(whole, first)) for first in ("again", "a"))
        tried.append((f"this suite, {count} replicates", str(count * each_costs), aa, ab))
    rows = []
    for name, cost, aa, ab in tried:
        if not aa or not ab:
            rows.append([name, cost, *["n/a"] * 6])
            continue
        shares = [sum(each in ("a", "b") for each in aa) / len(aa)]
        named = [ab.count(kind) / len(ab) for kind in ("a", "b", "tie")]
        shares += [*named, 1 - sum(named)]
        agreed = "n/a"
        if scored.verdict not in (None, "undecided"):  # which a protocol without an interval never says
            agreed = percent(sum(each == scored.verdict for each in ab) / len(ab))
        rows.append([name, cost, *map(percent, shares), agreed])
    return rows


def check(scored: Scored, found: Mapping[str, EmulatedSearches]) -> str:
    """The difference at the end of the suite's searches on the emulators, beside the observed one."""
    emulated, observed = found["a"].confirmed - found["b"].confirmed, np.array(scored.differences)
    sides = f"{optimizer_name(scored.pair['a'])} minus {optimizer_name(scored.pair['b'])}"
    (theirs, their_spread), (ours, our_spread) = (
        (float(each.mean()), float(each.std(ddof=1))) for each in (emulated, observed)
    )
    theirs_error, ours_error = their_spread / math.sqrt(len(emulated)), our_spread / math.sqrt(len(observed))
    sentences = [
        f"As a check of the emulators: in the confirm runs of {len(emulated)} emulated searches, {sides} is "
        f"{significant(theirs)} (standard error {significant(theirs_error)}, standard deviation "
        f"{significant(their_spread)}); in those of the study, {significant(ours)} ({significant(ours_error)}, "
        f"{significant(our_spread)})."
    ]
    if abs(theirs - ours) > 2 * math.hypot(theirs_error, ours_error):
        sentences.append(
            "**The means disagree by more than two standard errors, so do not read who wins on the emulators as a "
            "statement about the optimizers.**"
        )
    ratio = their_spread / our_spread if our_spread else math.inf
    freedom = len(emulated) - 1, len(observed) - 1
    if scipy.stats.f.sf(ratio**2, *freedom) < ALPHA / 2 or scipy.stats.f.cdf(ratio**2, *freedom) < ALPHA / 2:
        sentences.append(
            f"**The emulated differences vary {significant(ratio)} times as much as the real ones, so none of the "
            "percentages below can be taken literally; compare the protocols with each other.**"
        )
    return " ".join(sentences)


def robustness(scored: Scored) -> list[str]:
    """How much budget and search space would have to change before the verdict does."""
    a, b, n = scored.trials["a"], scored.trials["b"], len(scored.replicates)
    names = {key: optimizer_name(name) for key, name in scored.pair.items()}
    betas = " ".join(_betas(scored, key, names[key]) for key in ("a", "b"))
    whole = verdict_of(a, b, n, scored.margin)
    if whole is None:
        needed = f"a verdict needs {LEAST_REPLICATES} replicates"
        return [f"How robust the verdict is to budget and search space is not known yet: {needed}. {betas}"]
    titles = {**names, "tie": "tie", "undecided": "undecided"}
    after = by_budget(a, b, n, scored.margin)
    settled = settled_after(after)
    before = (
        f"; after {settled - 1} trials it was {titles.get(after[settled - 2] or '', 'none')}" if settled > 1 else ""
    )
    rows = []
    for key in ("a", "b"):
        cuts = {(cut.name, cut.end): cut for cut in by_box(key, a, b, n, scored.margin, scored.space(key))}
        for each in scored.space(key):
            row = [f"{names[key]}: {dimension_label(each)}"]
            for end in ("low", "high"):
                if (cut := cuts.get((each["name"], end))) is None:
                    row.append("none")
                    continue
                edge = value_at(each, cut.share if end == "low" else 1 - cut.share)
                row.append(f"{significant(edge)} ({100 * cut.share:.0f} % cut): {titles[cut.verdict]}")
            rows.append(row)
    return [
        f"From the best validation values alone, the verdict is *{titles[whole]}*, and has been since trial {settled} "
        f"of {len(after)}{before}. {betas} The table shows the smallest cut of one search space that changes this "
        "verdict, and to what.",
        markdown_table(["narrowed search space", "raised low end", "lowered high end"], rows),
    ]


def _betas(scored: Scored, key: str, name: str) -> str:
    """What fixing the betas at their defaults costs, compared with the optimizer's lead."""
    default = scored.sides[key].default
    columns = [i for i, each in enumerate(scored.space(key)) if each["kind"] == "memory"]
    if default is None or not columns:
        return f"{name}'s betas have no defaults to fix them at."
    rng = np.random.default_rng(derive_seed("protocols", scored.where, "betas", key))
    cost = cost_of_betas(scored.sides[key].emulator, scored.trials[key], {i: float(default[i]) for i in columns}, rng)
    count = range(len(scored.replicates))
    other = "b" if key == "a" else "a"
    ahead = [_best(scored.trials[other], place) - _best(scored.trials[key], place) for place in count]
    lead = float(np.mean(ahead))
    decides = f"more than its lead of {significant(lead)}" if 0 < lead < cost else "which does not change who leads"
    return f"According to the emulator, fixing {name}'s betas at their defaults costs {significant(cost)}, {decides}."


def _best(trials: Trials, place: int) -> float:
    best = trials.best(place)
    assert best is not None, place
    return best


def study_section(scored: Scored) -> list[str]:
    """The section of one study."""
    title = f"## {task_name(scored.described['task'])}: {scored.where}"
    if (why := scored.why_not()) is not None:
        return [title, f"Not scored: {why}."]
    scored.learn()
    names = {key: optimizer_name(name) for key, name in scored.pair.items()}
    verdict = {"a": names["a"], "b": names["b"], None: "none yet"}.get(scored.verdict, scored.verdict)
    explained = ", ".join(f"{percent(scored.sides[key].emulator.explained)} % for {names[key]}" for key in names)
    trials = sum(len(each.losses) for each in scored.trials.values())
    rng = np.random.default_rng(derive_seed("protocols", scored.where, "tried"))
    found = searches_of(scored, rng)
    return [
        title,
        f"{len(scored.replicates)} replicates, {trials} trials, verdict of the study: *{verdict}*. Of the variance in "
        f"{metric_label(scored.study['validation_metric'])} (large losses compressed logarithmically), the emulators "
        f"explain {explained}, leaving out one trial at a time, with length scales fitted to all. The margin of a tie "
        f"is {significant(scored.margin)}. {check(scored, found)}",
        markdown_table(
            [
                "protocol",
                "runs per optimizer",
                f"{names['b']} against itself: false winner, %",
                f"{names['a']} wins, %",
                f"{names['b']} wins, %",
                "tie, %",
                "undecided or withheld, %",
                "same verdict as the study, %",
            ],
            scores(scored, found, rng),
        ),
        *robustness(scored),
    ]


def protocols_page(results: Path) -> str:
    """The whole page as Markdown."""
    folders = study_folders(results, "study.json")
    sections = [
        "# Which tuning protocols can be trusted?",
        "Written by `python -m experiments.simulation.protocols_page` from the trials of all declared replicates. An "
        "emulator of each optimizer is fitted to a study's trials: a Gaussian process through all of them, plus "
        "residuals that are drawn from one replicate at a time, because trials share its split and seeds. Each "
        f"protocol is run {TIMES} times on the emulators: with the reference against itself, where every winner is "
        "false, and with both optimizers. Protocols without an interval name the optimizer with the better number, "
        "unless the difference is within the margin. Means of bests of random points have AlgoPerf's tuning effort "
        "(Dahl et al. 2023), not its score. All differences and margins are in the validation metric, by which trials "
        "are scored; those of a study's page are in the test metric, and may differ in sign near 0. For this suite, "
        f"{SEARCHES} searches of each optimizer are made once, and the {TIMES} studies are drawn from them, so their "
        "shares are uncertain by several points. A default beta outside the search space counts as the nearest end of "
        "that.",
        *(section for folder in folders for section in study_section(Scored(folder))),
    ]
    if not folders:
        sections.append("No study is committed yet.")
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    page = ROOT / "results" / "protocols.md"
    page.write_text(protocols_page(ROOT / "results"), encoding="utf-8")
    print(page)
