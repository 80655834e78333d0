"""`python -m experiments`: the tables and figures, from what is to be run to what came of it."""

import argparse
import json
import os
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

from diffprune.runtime.addresses import hide_secrets
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from experiments.named import planned
from experiments.planning import declarations
from experiments.starting import prepare, start
from experiments.watching import STATES, cancel_jobs, show_log, show_status

PROJECT = "diffprune"       # that of conf/logger/wandb.yaml


def seeds(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text} is not a list of seeds: give for instance 0,1,2")
    return tuple(map(int, text.split(",")))

COMMANDS = ("list", "plan", "prepare", "run", "status", "logs", "cancel", "retry", "report", "dashboard")
OF_FOLDERS = ("status", "logs", "cancel", "dashboard")      # take folders of runs, too

# The options of each command, with argparse's settings.
OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("plan status logs cancel run retry report dashboard", "--seeds",
     {"type": seeds, "metavar": "0,1,2", "help": "in place of the table's"}),
    ("plan status", "--json", {"action": "store_true", "help": "for programs"}),
    ("status", "--watch", {"action": "store_true", "help": "again and again, until no cell is running or queued"}),
    ("run retry logs cancel", "--cell", {"type": int, "metavar": "I", "help": "the plan's cell I alone, counted from 0"}),
    ("run retry", "--workers", {"type": int, "default": 1, "metavar": "N", "help": "so many processes at once, here"}),
    ("run retry", "--dry-run", {"action": "store_true", "help": "print what would be done or submitted"}),
    ("run retry", "--cap", {"type": int, "metavar": "K", "help": "with launcher=slurm: at most K cells at once; options "
                            "that are not listed here go to sbatch (--time=4:00:00)"}),
    ("run retry", "--pack", {"type": int, "default": 1, "metavar": "N", "help": "with launcher=slurm: N cells in a job"}),
    ("report", "--out", {"type": Path, "default": Path("report"), "metavar": "DIR", "help": "default: report"}),
    ("report", "--mixed-protocols", {"action": "store_true", "help": "show runs together whose numbers do not compare"}),
    ("report", "--no-page", {"action": "store_true", "help": "leave out the page with every run's samples"}),
    ("dashboard", "--project", {"default": PROJECT, "help": f"the W&B project (default: {PROJECT})"}),
    ("dashboard", "--entity", {"help": "the W&B user or team (default: one's own)"}),
    ("dashboard", "--out", {"type": Path, "metavar": "FILE", "help": "for the specification where nobody is logged in "
                            "(default: dashboard-NAME.json)"}))


def main(words: list[str] | None = None) -> int:
    """Runs the command that `words` (default: the command line's) give; returns the exit status: 0, 1 where
    something failed, 75 where the same command goes on."""
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    hide_secrets()
    arguments = parsed(sys.argv[1:] if words is None else words)
    with one_sentence():
        return arguments.command(arguments) or 0


def parsed(words: list[str]) -> argparse.Namespace:
    """The parsed command line; tables and overrides may stand anywhere among the options, which argparse does not allow."""
    reader = parser()
    arguments, rest = reader.parse_known_args(words)
    arguments.sbatch = [word for word in rest if word.startswith("-")]
    if not hasattr(arguments, "words") or (arguments.sbatch and not hasattr(arguments, "cap")):
        reader.parse_args(words)    # ends with argparse's message
        return arguments
    arguments.words += [word for word in rest if not word.startswith("-")]
    arguments.tables = [word for word in arguments.words if "=" not in word]
    arguments.overrides = [word for word in arguments.words if "=" in word]
    arguments.own = words
    return arguments


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m experiments", description=__doc__)
    commands = out.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    commands.add_parser("list", help="the tables there are").set_defaults(command=list_tables)
    for name, command, about in (
            ("plan", show_plan, "each cell's command, folder and estimate"),
            ("prepare", prepare, "fetches the data, models and feature networks that the cells need"),
            ("run", partial(start, states=STATES[1:]), "does what is missing, here or on Slurm (launcher=slurm)"),
            ("status", show_status, "how each cell stands, its job, its log, how far it is"),
            ("logs", show_log, "what a cell has written"),
            ("cancel", cancel_jobs, "takes cells from Slurm's queue, or ends their jobs"),
            ("retry", partial(start, states=("failed", "stopped")), "does again what failed or was stopped"),
            ("report", report, "our numbers next to the published ones: tables, figures, page"),
            ("dashboard", dashboard, "the runs as a Weights & Biases workspace")):
        one = commands.add_parser(name, help=about, description=about)
        one.add_argument("words", nargs="+", metavar="NAME | OPTION=VALUE",
                         help="tables, and options on top of every cell's (paths.runs=… dataset.path=… logger=none)"
                         + ("; or folders of runs in their place" if name in OF_FOLDERS else ""))
        for _, option, settings in (each for each in OPTIONS if name in each[0].split()):
            one.add_argument(option, **settings)
        one.set_defaults(command=command)
    return out


def list_tables(arguments: argparse.Namespace) -> None:
    for name in declarations.names():
        table = declarations.table(name)
        print(f"{name:32}{sum(len(row.seeds) for row in table.rows):4} cells  {table.about}")


def show_plan(arguments: argparse.Namespace) -> None:
    from diffprune.runtime.progress import duration
    from experiments.planning.estimate import Device, estimates
    cells = planned(arguments).cells
    plans = [(cell, cell.status.state == "done", guess)
             for cell, guess in zip(cells, estimates(cells, Device.of(arguments.words)), strict=True)]
    if arguments.json:
        print(json.dumps([cell.described(done) | {"estimate": guess.record()} for cell, done, guess in plans], indent=2))
        return
    for number, (cell, done, guess) in enumerate(plans):
        print(f"{number:4}  {'done' if done else 'to do'}  {cell.name}\n"
              f"      {shlex.join(cell.command)}\n      {cell.folder}\n      about {guess}")
    left = [guess for _, done, guess in plans if not done]
    print(f"{len(cells)} cells, {len(cells) - len(left)} done; about {duration(sum(guess.seconds for guess in left))} and "
          f"{sum(guess.disk for guess in left) / 1e9:.1f} GB of disk for the rest, one after the other")
    if still := sorted({key for cell in cells for key in cell.missing}):
        print(f"still to be chosen: {' '.join(f'{key}=…' for key in still)}")


def report(arguments: argparse.Namespace) -> None:
    from experiments.reporting.files import write_report
    everything = planned(arguments)
    for name in dict.fromkeys(table.name for table, _, _ in everything.rows):
        print(write_report(everything, name, arguments.out, not arguments.no_page, arguments.mixed_protocols,
                           arguments.overrides))


def dashboard(arguments: argparse.Namespace) -> None:
    """Sends the workspace of tables' runs, or of the runs in folders; writes it to a file where nobody is logged in."""
    from experiments.reporting.dashboard import Dashboard, finished_in, send
    folders = [Path(word) for word in arguments.tables if word not in declarations.names() and Path(word).is_dir()]
    if folders and (len(folders) < len(arguments.words) or arguments.seeds):
        raise UserError(f"{folders[0]} is a folder of runs, and stands without tables, options and seeds")
    name = folders[0].resolve().name if folders else "-".join(arguments.tables)
    runs = finished_in(folders) if folders else planned(arguments).cells
    shown = Dashboard.of(name, runs, arguments.project, arguments.entity)
    print(send(shown, arguments.out or Path(f"dashboard-{name}.json")))
