"""`python -m diffprune.bench [OPTION=VALUE …]`: speed-up over a straightforward baseline, on this machine.

All ways of a case are timed alternately in one process; medians and the rounds' ratios count. Weights are random and images
are noise, on which times do not depend.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from diffprune.bench.cases import CASES, Bench
from diffprune.bench.measured import table
from diffprune.bench.setting import Setting, machine
from diffprune.runs.provenance import versions
from diffprune.runtime.addresses import hide_secrets
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json

DEFAULT = ("dataset=cifar10", "pruner.ratio=.3")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m diffprune.bench", description=__doc__.split("\n\n")[0])
    options.add_argument("overrides", nargs="*", help="of a run: the model, the device, the recipe (default: CIFAR-10's)")
    options.add_argument("--only", default=",".join(CASES), help="cases, with commas between them (default: all)")
    options.add_argument("--batch", type=int, default=8, help="images per training step, scoring pass and sampling")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=10, help="of the sampler")
    options.add_argument("--images", type=int, default=500, help="whose features are computed")
    options.add_argument("--features", default="cifar-cnn", help="the feature network")
    options.add_argument("--weights", help="its weight file")
    options.add_argument("--compiled", action="store_true", help="also with torch.compile, which takes minutes on a CPU")
    options.add_argument("--against", type=Path, metavar="FILE",
                         help="a Python file whose function denoiser() returns another implementation of the network, "
                              "called with x_t and t: training, sampling and evaluations are compared with it")
    options.add_argument("--json", type=Path, help="where all numbers are written, with the machine and the versions")
    return options


def main() -> None:
    hide_secrets()
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence(), TemporaryDirectory() as compiled:      # so that compiling is timed from the start
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        wanted = arguments.only.split(",")
        if unknown := sorted(set(wanted) - set(CASES)):
            raise UserError(f"--only {','.join(unknown)} is not known: choose of {', '.join(CASES)}")
        setting = Setting.of([*DEFAULT, *arguments.overrides], arguments.batch, arguments.compiled, arguments.against)
        bench = Bench(setting, arguments.rounds, arguments.steps, arguments.images, arguments.features, arguments.weights)
        lines = [line for case in CASES if case in wanted for line in getattr(bench, case)()]
    host = machine(setting.device)
    print(f"\n{table([line.record() for line in lines])}\n\n{', '.join(host.values())}")
    if arguments.json is not None:
        command = shlex.join(["python", "-m", "diffprune.bench", *sys.argv[1:]])
        write_json(arguments.json, {"command": command, "machine": host, "versions": versions(),
                                "model": setting.model.name, "rounds": arguments.rounds,
                                "lines": [line.record() for line in lines]})


if __name__ == "__main__":
    main()
