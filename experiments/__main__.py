"""``python -m experiments <task> ...``: one of ours (``lit``), or a package of your own (``my_package.my_task``)."""

import sys

from experiments.harness.entry import main
from experiments.harness.source_code import task_name

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-") or "=" in sys.argv[1]:
        sys.exit("usage: python -m experiments <task> [-m] [key=value ...]; docs/your-own.md")
    main(task_name(sys.argv.pop(1)))
