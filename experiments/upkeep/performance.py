"""The page docs/performance.md, of all machines that were measured: `python -m experiments.upkeep.performance`.

`python -m diffprune.bench --json experiments/results/bench_<machine>.json` makes one.
"""

from typing import Any

from diffprune.bench.measured import table
from diffprune.runtime.files import read_json
from experiments.upkeep import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
INTRODUCTION = """# Performance

All ways of a case are timed alternately in one process. Seconds are medians; a speed-up is the median over the rounds
of the plain way's time divided by this way's. The plain way is what a script does: one timestep per step, float32,
NCHW, a scoring pass for every cell of a grid, PNG files between sampling and scoring (`diffprune/bench/plain.py`).
Memory is the most that a call took above what was in use before it. The first call of a compiled way compiles; the
table says after how many calls the time for that is won back. What a training step does besides the network and the
optimiser is timed alone and counted as often as a step does it. GMAC/s are 10⁹ multiply-accumulates a second, a
training step counting as three evaluations; they are compared with a matrix product's in the same format. More than
100 % is possible where convolutions have a better library than products. Where the plain way is near that, only formats
that the device computes faster can gain.

"against" is another implementation, which all ways of its case are compared with then: `--against FILE` names a Python
file whose function `denoiser()` returns a network that is called with x_t and t. `tests/bench/ddim_denoiser.py` is the
network of the DDIM code base in plain PyTorch, which takes the same weights and computes the same."""
COMMAND = "python -m diffprune.bench --json experiments/results/{name}"


def measurements() -> list[tuple[str, dict[str, Any]]]:
    """(file name, what the bench wrote) of every machine."""
    return [(path.name, read_json(path)) for path in sorted(RESULTS.glob("bench_*.json"))]


def page() -> str:
    """Everything that was measured, with the machine and the versions."""
    sections = [INTRODUCTION]
    for name, record in measurements():
        versions = ", ".join(f"{library} {version}" for library, version in record["versions"].items())
        command = record.get("command", COMMAND.format(name=name))
        how = f"`{command}`, {record['rounds']} rounds, {record['model']}; {versions}."
        heading = f"## {title(record)}"
        sections += [*([heading] if heading not in sections else []), how, table(record["lines"], "github")]
    return "\n\n".join(sections) + "\n"


def title(record: dict[str, Any]) -> str:
    return record["machine"].get("gpu", record["machine"]["processor"])


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
