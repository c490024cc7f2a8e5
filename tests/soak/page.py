"""docs/reliability.md, to which every session of ``make soak`` adds its faults."""

import re
from collections import Counter

from tests.soak.faults import IN_A_PROCESS, LONGEST_S

DAMAGED, TWO, FRESH, WANDB, SERVER, RAY = (
    "files cut, flipped, emptied, deleted",
    "two processes",
    "FRESH on a live run",
    "W&B's service killed or stopped",
    "W&B's server refuses, hangs or dies",
    "a part of Ray killed",
)
KINDS = [*IN_A_PROCESS, DAMAGED, TWO, FRESH, WANDB, SERVER]
SESSION = re.compile(
    r"make soak SECONDS=(\d+) SEED=(\w+).*?commit (\w+), (\d+ cores \(\w+\)): "
    r"(\d+) trials, (\d+) faults,\s+(\d+) of them",
    re.DOTALL,
)
"""One session in a page."""


def page_with(before: str, session: tuple[str, ...], faults: Counter[str], lost: Counter[str]) -> str:
    """The page ``before``, empty at first, with one more session (the groups of SESSION) and its faults by kind."""
    rows = re.findall(r"^\| (.+) \| (\d+) \| \d+ \| (\d+) \|$", before, re.MULTILINE)
    faults = faults + Counter({kind: int(times) for kind, times, _ in rows})
    lost = lost + Counter({kind: int(times) for kind, _, times in rows})
    table = "\n".join(
        f"| {kind} | {faults[kind]} | {faults[kind] - lost[kind]} | {lost[kind]} |" for kind in [*KINDS, RAY]
    )
    listed = "\n".join(
        f"- make soak SECONDS={seconds} SEED={seed}: commit {commit}, {machine}: {trials} trials, {injected} faults,\n"
        f"  {of_lost} of them in lost trials"
        for seconds, seed, commit, machine, trials, injected, of_lost in [*SESSION.findall(before), session]
    )
    return f"""\
# What runs and studies survive

Random faults are injected into smoke runs, and occasionally whole studies, of all five tasks, one to eight per trial,
one after the other. Then the same command runs once more without faults, and everything it leaves is compared with an
undisturbed run: every row (except times), every bit of the weights and of the optimizer state, and every comparison of
a study. A fault counts as lost if its trial ends differently, or if a command does not end within {LONGEST_S:.0f} s.

In total, {sum(faults.values())} faults were injected in these sessions, {sum(lost.values())} of them in lost trials.
Another session is added by `make soak SECONDS=3600 PAGE=docs/reliability.md`.

{listed}

| fault | injected | identical end | lost |
| :-- | --: | --: | --: |
{table}

Only faults that struck before their command had ended are counted. Runs have zero or two data workers, so a signal
meets either. The last checkpoint of a run that has ended may be among the deleted files; nothing needs it any more.

Not counted: a session that its own error cut short (SEED=1129, commit 46e549e2, trial 84). A study's command with
FRESH=1, killed and given again, went on to its next replicate instead of starting over; mended in commit e0471516.
"""
