"""Rebuild the page and figures of every study, and the overview of all of them, from the records in results/.

python -m experiments.report [results folder]
"""

import argparse
import sys
from pathlib import Path

from experiments.harness.errors import SuiteError
from experiments.harness.source_code import ROOT
from experiments.report.rebuild import write_report

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "results", nargs="?", type=Path, default=ROOT / "results", help="default: results/ of this checkout"
    )
    try:
        for directory in write_report(parser.parse_args().results):
            print(directory / "README.md")
    except SuiteError as error:
        sys.exit(f"error: {error}")
