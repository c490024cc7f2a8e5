"""Check an implementation of Lion on a CPU, in seconds: ``python -m lion.doctor timm.optim:Lion``.

It checks any torch.optim.Optimizer that is constructed as ``Class(params, lr=..., betas=..., weight_decay=...)``: its
steps against Lion's rule in float64 (`lion.doctor_rule`), and its features against its own plain steps. Each fault is
one sentence; design choices that are not wrong are printed as notes. The exit code is 0 if there is no fault, 1 if
there is one, 2 if the class could not be checked.
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
    """All findings on an optimizer, without duplicates.

    Args:
        make: the class, or a function of the same signature.

    Raises:
        Exception: whatever it raises if it cannot be constructed or cannot step at all on float32 parameters on a CPU.
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
        findings.append(Finding(f"It raises {type(error).__name__} ({reason}) in this check: {purpose}."))
    return findings


def main(arguments: list[str]) -> int:
    """Check the class that the command line names, print the findings, and return the exit code."""
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
        print(f"{arguments[0]} could not be checked: {type(error).__name__}: {reason}", file=sys.stderr)
        return 2
    faults = [finding for finding in findings if finding.is_fault]
    for finding in faults + [finding for finding in findings if not finding.is_fault]:
        print(f"{'fault' if finding.is_fault else 'note'}: {finding.sentence}")
    print(f"{arguments[0]} is {'incorrect' if faults else 'correct'}.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
