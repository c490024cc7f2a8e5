"""Command line of the plan; see plan.py."""

import sys

from experiments.harness.explained import one_sentence
from experiments.harness.source_code import task_name
from experiments.plan.plan import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python -m experiments.plan <task> [key=value ...]")
    with one_sentence():
        main(task_name(sys.argv[1]), sys.argv[2:])
