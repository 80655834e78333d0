"""`python3 slurm/cell.py PLAN.json INDEX`: becomes the command of one cell, so that signals reach the command itself.

Needs nothing but Python: it runs before any environment of the project is known to be there.
"""

import json
import os
import sys


def main() -> None:
    plan, index = sys.argv[1], int(sys.argv[2])
    with open(plan, encoding="utf-8") as file:
        cell = json.load(file)[index]
    print(cell.get("title", ""), flush=True)
    os.execvp(cell["command"][0], cell["command"])


if __name__ == "__main__":
    main()
