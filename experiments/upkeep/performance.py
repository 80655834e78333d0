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
optimiser is timed alone and counted as often as a step does it. GMAC/s are 10⁹ multiply-accumulates a second; a
training step counts as three evaluations. Where the plain way comes near the rate of a matrix product in its own
format, only formats that the device computes faster can gain."""
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
        sections += [f"## {title(record)}", how, table(record["lines"], "github")]
    return "\n\n".join(sections) + "\n"


def title(record: dict[str, Any]) -> str:
    return record["machine"].get("gpu", record["machine"]["processor"])


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
