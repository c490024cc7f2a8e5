"""Is the Lion that I have installed right? ``python -m lion.doctor timm.optim:Lion`` says so in a minute, on a CPU.

It examines any torch.optim.Optimizer that is built as ``Class(params, lr=..., betas=..., weight_decay=...)``, and
compares it with the rule in float64 (`lion.doctor_rule`) and with itself. A fault is one sentence; matters of taste are
notes. The exit code is 0 if it is right, 1 if there is a fault, 2 if it cannot be examined here.
"""

import importlib
import sys
import warnings
from typing import Any

import torch

from lion.doctor_checks import EXACT, OF_ITSELF, OF_THE_RULE, QUANTISED, Check, Finding, check_rule, is_quantised
from lion.doctor_trial import Make, Trial, random_problem

USAGE = "usage: python -m lion.doctor module:Class, such as timm.optim:Lion"


def examine(make: Make) -> list[Finding]:
    """All findings on an optimizer, each sentence once.

    Args:
        make: the class, or a function of the same signature.

    Raises:
        Exception: whatever it raises where it cannot be built or cannot step over float32 parameters of a CPU at all.
    """
    Trial(make, random_problem(shapes=((5,),), steps=2)).run()
    allowed = QUANTISED if is_quantised(make) else EXACT
    findings = _run(check_rule, make, allowed)
    checks = OF_ITSELF if findings else [*OF_THE_RULE, *OF_ITSELF]
    for check in checks:
        findings += _run(check, make, allowed)
    return [*dict.fromkeys(findings)]


def _run(check: Check, make: Make, allowed: float) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(make, allowed))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        purpose = (check.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        findings.append(Finding(f"It fails with {type(error).__name__} ({reason}) where this was examined: {purpose}."))
    return findings


def main(arguments: list[str]) -> int:
    """Examine the class that the command line names, print what was found, and return the exit code."""
    module, _, name = arguments[0].partition(":") if len(arguments) == 1 else ("", "", "")
    if not (module and name):
        print(USAGE, file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        made: Any = getattr(importlib.import_module(module), name)
        findings = examine(made)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        print(f"{arguments[0]} cannot be examined here: {type(error).__name__}: {reason}", file=sys.stderr)
        return 2
    faults = [finding for finding in findings if finding.is_fault]
    for finding in faults + [finding for finding in findings if not finding.is_fault]:
        print(f"{'fault' if finding.is_fault else 'note'}: {finding.sentence}")
    print(f"{arguments[0]} is {'wrong' if faults else 'right'}.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
