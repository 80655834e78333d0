"""`python -m experiments`: the tables and figures, from what is to be run to what came of it."""

import argparse
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from experiments.planning import declarations as declared
from experiments.planning.cells import Cell, Plan, check_ready, elsewhere, plan

PROJECT = "diffprune"       # that of conf/logger/wandb.yaml
STATES = ("done", "running", "waiting", "failed", "stopped")    # the first needs nothing more


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 where something failed, 75 where the same command goes on."""
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    asked = understood(arguments)
    with one_sentence():
        return asked.does(asked)


def understood(arguments: list[str] | None) -> argparse.Namespace:
    """The parsed line; argparse takes words in one place alone, here they stand anywhere among the options."""
    reader = parser()
    asked, rest = reader.parse_known_args(arguments)
    options = [word for word in rest if word.startswith("-")]
    if not hasattr(asked, "words") or (options and not hasattr(asked, "sbatch")):
        reader.parse_args(arguments)    # says what is wrong
    else:
        asked.words += [word for word in rest if not word.startswith("-")]
        asked.sbatch = options
    asked.arguments = sys.argv[1:] if arguments is None else arguments
    return asked


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m experiments", description=__doc__)
    commands = out.add_subparsers(required=True, metavar="list | plan | run | status | retry | report | dashboard")
    commands.add_parser("list", help="the tables there are").set_defaults(does=list_tables)
    for name, does, about in (("plan", show_plan, "each cell's command, folder and estimate"),
                              ("run", run_cells, "does what is missing, here or with launcher=slurm"),
                              ("status", show_status, "done, running, waiting, failed, stopped: from the run folders alone"),
                              ("retry", retry_cells, "does again what failed or was stopped"),
                              ("report", report, "ours beside the published numbers: tables, pictures, page"),
                              ("dashboard", dashboard, "the runs as a Weights & Biases workspace")):
        one = commands.add_parser(name, help=about, description=about)
        one.add_argument("words", nargs="+", metavar="NAME | OPTION=VALUE",
                         help="tables, and options on top of every cell's (paths.runs=… dataset.path=… logger=none)"
                         + ("; or folders of runs in their place" if name == "dashboard" else ""))
        one.add_argument("--seeds", type=seeds, metavar="0,1,2", help="instead of the table's own")
        if name in ("plan", "status"):
            one.add_argument("--json", action="store_true", help="for programs")
        if name in ("run", "retry"):
            one.add_argument("--cell", type=int, metavar="I", help="the plan's cell I alone, counted from 0")
            one.add_argument("--workers", type=int, default=1, metavar="N", help="so many processes at once, here")
            one.add_argument("--dry-run", action="store_true", help="say what would be done or submitted")
            one.add_argument("--cap", type=int, metavar="K", help="with launcher=slurm: at most K cells at once; every "
                             "option that is not listed here goes to sbatch (--time=4:00:00)")
            one.set_defaults(sbatch=[])
        if name == "report":
            one.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="default: report")
            one.add_argument("--mixed-protocols", action="store_true", help="line up runs whose numbers do not compare")
            one.add_argument("--no-page", action="store_true", help="leave out the page with every run's samples")
        if name == "dashboard":
            one.add_argument("--project", default=PROJECT, help=f"the W&B project (default: {PROJECT})")
            one.add_argument("--entity", help="the W&B user or team (default: one's own)")
            one.add_argument("--out", type=Path, metavar="FILE", help="where the specification goes without a login "
                             "(default: dashboard-NAME.json)")
        one.set_defaults(does=does)
    return out


def seeds(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text} is no list of seeds: give for instance 0,1,2")
    return tuple(map(int, text.split(",")))


def planned(asked: argparse.Namespace) -> Plan:
    tables, options = parted(asked.words)
    if not tables:
        raise UserError(f"no table is named: give one of {', '.join(declared.names())}")
    return plan(tables, options, asked.seeds)


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(tables, options)"""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def list_tables(asked: argparse.Namespace) -> int:
    for name in declared.names():
        table = declared.table(name)
        print(f"{name:32}{sum(len(row.seeds) for row in table.rows):4} cells  {table.about}")
    return 0


def show_plan(asked: argparse.Namespace) -> int:
    from diffprune.runtime.progress import duration
    from experiments.planning.estimate import Device, estimates
    cells = planned(asked).cells
    guesses = estimates(cells, Device.of(asked.words))
    done = [cell.standing.state == "done" for cell in cells]
    if asked.json:
        print(json.dumps([cell.described(finished) | {"estimate": guess.record()}
                          for cell, finished, guess in zip(cells, done, guesses, strict=True)], indent=2))
        return 0
    for number, (cell, finished, guess) in enumerate(zip(cells, done, guesses, strict=True)):
        print(f"{number:4}  {'done' if finished else 'to do'}  {cell.name}\n"
              f"      {shlex.join(cell.command)}\n      {cell.folder}\n      about {guess}")
    left = [guess for finished, guess in zip(done, guesses, strict=True) if not finished]
    print(f"{len(cells)} cells, {sum(done)} done; about {duration(sum(guess.seconds for guess in left))} and "
          f"{sum(guess.disk for guess in left) / 1e9:.1f} GB of disk for the rest, one after the other")
    if still := sorted({key for cell in cells for key in cell.missing}):
        print(f"still to be chosen: {' '.join(f'{key}=…' for key in still)}")
    return 0


def show_status(asked: argparse.Namespace) -> int:
    cells = planned(asked).cells
    found = [cell.standing for cell in cells]
    if asked.json:
        print(json.dumps([{"title": cell.name, "folder": str(cell.folder), "state": now.state, "host": now.host,
                           "pid": now.pid, "since": now.since, "ended": now.ended, "reason": now.reason}
                          for cell, now in zip(cells, found, strict=True)], indent=2))
        return 0
    for number, (cell, now) in enumerate(zip(cells, found, strict=True)):
        where = f"on {now.host}" if now.state == "running" else now.reason
        print(f"{number:4}  {now.state:8}  {cell.name}{f': {where}' if where else ''}")
    counts = Counter(now.state for now in found)
    print(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    return 0


def run_cells(asked: argparse.Namespace) -> int:
    return start(asked, STATES[1:])


def retry_cells(asked: argparse.Namespace) -> int:
    return start(asked, ("failed", "stopped"))


def start(asked: argparse.Namespace, states: Sequence[str]) -> int:
    """Does, or submits, the cells that are in one of `states`."""
    if unheard := without_effect(asked):
        raise UserError(f"{' '.join(unheard)}: cells are done here, by --workers, or with launcher=slurm, whose options are "
                        "--cap and those of sbatch (--partition=gpu --time=4:00:00)")
    wanted = [cell for cell in chosen(planned(asked).cells, asked.cell) if cell.standing.state in states]
    check_ready(wanted)
    if "launcher=slurm" in asked.words:
        return submitted(wanted, asked)
    if asked.dry_run:
        for cell in wanted:
            print(shlex.join(cell.command))
        return 0
    from experiments.running.local import run
    from experiments.running.workers import WORKER, begun, own_first, work
    if asked.workers > 1 and WORKER not in os.environ:
        return work(wanted, asked.arguments, asked.workers)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run(own_first(wanted), begun())


def without_effect(asked: argparse.Namespace) -> list[str]:
    """The options that would do nothing where the cells are to be done."""
    there = [word for word in asked.words if elsewhere(word)]
    if "launcher=slurm" in there:
        return [word for word in there if word != "launcher=slurm"] + ["--workers"] * (asked.workers > 1)
    return [*asked.sbatch, *(word for word in there if word != "launcher=local")] + ["--cap"] * (asked.cap is not None)


def chosen(cells: list[Cell], number: int | None) -> list[Cell]:
    if number is None:
        return cells
    if not 0 <= number < len(cells):
        raise UserError(f"--cell {number}: the plan has cells 0 to {len(cells) - 1}")
    return [cells[number]]


def submitted(cells: list[Cell], asked: argparse.Namespace) -> int:
    """Hands the cells that nobody does to Slurm as array jobs, under the options of its site file and those given here."""
    from experiments.running.slurm import LOGS, submit
    left = [cell.described(False) for cell in cells if cell.standing.state != "running"]
    logs = cells[0].folder.parent.parent / LOGS.name if cells else LOGS
    try:
        submit(left, "-".join(parted(asked.words)[0]), asked.cap, asked.sbatch, asked.dry_run, logs)
    except subprocess.CalledProcessError as error:      # sbatch has said why
        return error.returncode
    return 0


def report(asked: argparse.Namespace) -> int:
    from experiments.reporting.files import write_report
    everything = planned(asked)
    for name in dict.fromkeys(table.name for table, _, _ in everything.rows):
        print(write_report(everything, name, asked.out, not asked.no_page, asked.mixed_protocols, parted(asked.words)[1]))
    return 0


def dashboard(asked: argparse.Namespace) -> int:
    """The workspace of tables' runs, or of those in folders; sent, or written where nobody is logged in."""
    from experiments.reporting.dashboard import Dashboard, send
    named, options = parted(asked.words)
    folders = [Path(word) for word in named if word not in declared.names() and Path(word).is_dir()]
    if folders and (len(folders) < len(named) or options or asked.seeds):
        raise UserError(f"{folders[0]} is a folder of runs, and stands without tables, options and seeds")
    shown = (Dashboard.of_folders(folders, asked.project, asked.entity) if folders else
             Dashboard.of_cells("-".join(named), planned(asked).cells, asked.project, asked.entity))
    print(send(shown, asked.out or Path(f"dashboard-{shown.name}.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
