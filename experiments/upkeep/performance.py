"""The README's performance table and docs/performance.md: `python -m experiments.upkeep.performance`.

`python -m diffprune.bench --json experiments/results/bench_<machine>.json` makes one.
"""

from typing import Any

from tabulate import tabulate

from diffprune.bench.cases import BASELINE, TOGETHER
from diffprune.bench.measured import table
from diffprune.runtime.files import read_json
from experiments.upkeep import README, RESULTS, ROOT, replaced

PAGE = ROOT / "docs" / "performance.md"
INTRODUCTION = """# Performance

All ways of a case are timed alternately in one process. Seconds are medians; a speed-up is the median over the rounds of
the plain way's time divided by this way's. The plain way is what a script does: one timestep per step, float32, NCHW, a
scoring pass for every cell of a grid, PNG files between sampling and scoring (`diffprune/bench/plain.py`). Memory is the
most that a call took above what was in use before it. The first call of a compiled way compiles; the table says after how
many calls that has paid for itself. What is done beside a training step is timed alone and counted as often as a step does
it. GMAC/s are 10⁹ multiply-accumulates a second; a training step counts as three evaluations. Where the plain way comes near
the rate of a matrix product in its own format, only formats that the device computes faster can gain."""
SHOWN = 8           # images per evaluation of the one latency that the README shows
COMMAND = "python -m diffprune.bench --json experiments/results/{name}"


def measurements() -> list[tuple[str, dict[str, Any]]]:
    """(file name, what the bench wrote) of every machine."""
    return [(path.name, read_json(path)) for path in sorted(RESULTS.glob("bench_*.json"))]


def headlines(record: dict[str, Any]) -> list[list[str]]:
    """For each case the fastest of this project's ways, with its speed-up over the baseline, even where that is below 1.
    Latencies show the pruned model against the dense one, the work beside a step its sum."""
    rows = []
    for case in dict.fromkeys(line["case"] for line in record["lines"]):
        ways = [line for line in record["lines"] if line["case"] == case and line["way"] != BASELINE]
        fastest = max(ways, key=lambda line: line.get("times_as_fast", line["way"] == TOGETHER))
        pruned = next((line for line in ways if line["way"] == "pruned, eager"), None)
        if pruned is not None and case.endswith(f"batch {SHOWN}"):
            rows.append([case, "pruned beside dense", pruned["note"].split()[0], pruned["note"].split("; ")[1]])
        elif pruned is None:
            ratio = f"{fastest['times_as_fast']:.2f}" if "times_as_fast" in fastest else ""
            rows.append([case, fastest["way"], ratio, fastest["note"]])
    return rows


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


def rendered(readme: str) -> str:
    """The README with one table of a few lines for each machine."""
    return replaced(readme, "performance", "\n\n".join(
        tabulate(headlines(record), [title(record), "way", "speed-up", ""], "github", disable_numparse=True)
        for _, record in measurements()))


def main() -> None:
    README.write_text(rendered(README.read_text()))
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
