"""`python -m diffprune.sampling RUN`: joins in drawing the images of a run, from another process or machine."""

import argparse
import logging
from pathlib import Path

from diffprune.config.compose import read_foreign_run
from diffprune.runs.run import Run
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.stages.options import execution, trains
from diffprune.stages.sample import draw_sets


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m diffprune.sampling", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, whose model is pruned and fine-tuned")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], metavar="DIR",
                        help="a folder of configurations whose classes the run may name")
    given = parser.parse_args(arguments)
    run = Run(given.run)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        if not run.config.exists():
            raise UserError(f"{run.folder} is no run folder: start the run first, with until=finetune")
        cfg = read_foreign_run(run.config, given.config_dir)
        model = run.final(trains(cfg))
        if not model.exists():
            raise UserError(f"{run.folder} has no model {model.name}/ yet: repeat its command with until=finetune")
        draw_sets(cfg, run, execution(cfg))


if __name__ == "__main__":
    main()
