"""Rebuild the page and figures of every study, and the overview of all of them, from the records in results/.

python -m experiments.report [results folder]
"""

import argparse
from pathlib import Path

from experiments.harness.explained import one_sentence
from experiments.harness.source_code import ROOT
from experiments.report.rebuild import write_report

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "results", nargs="?", type=Path, default=ROOT / "results", help="default: results/ of this checkout"
    )
    arguments = parser.parse_args()
    with one_sentence():
        for directory in write_report(arguments.results):
            print(directory / "README.md")
