"""The model card of a run's final model, README.md in its folder: every number names the file and the entry it is of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffprune.report.tables.measures import MEASURES
from diffprune.runs.metrics import STATES
from diffprune.runs.run import Run
from diffprune.runtime.checksums import FOR_PEOPLE, add_to_list, is_listed
from diffprune.runtime.files import atomic_file, read_json

SIZES = {"params": "parameters", "macs": "multiply-accumulates of one evaluation of one image"}
TITLES = {"final": "this model", "dense": "dense model", "before_healing": "before fine-tuning"}
ABROAD = ("diffusers", "transformers", "pruned")      # what diffusers opens without this package
INTRODUCTION = """---
library_name: diffusers
tags: [diffprune, structural-pruning]
---
# {name}

`{model}` on `{dataset}`: pruned in width by `{pruner}`, fine-tuned by `{schedule}`, with seed {seed} (metrics.json: `seed`).
Its licence is that of the dense model. Each row of a table names the entries of the run's metrics.json or prune.json that it
shows.
"""
LOADING = """## Use

```python
import diffprune
pipeline = diffprune.load_pipeline("FOLDER")
```
"""
LOADING_ABROAD = """
Without diffprune, by the code in the folder itself, `{network}/pruned.py`:

```python
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)
```
"""


def write_card(run: Run) -> Path:
    """Writes the card into the folder of the run's final model, and returns its path; one that somebody has edited stays."""
    folder = run.final_model()
    card, text = folder / FOR_PEOPLE, model_card(read_json(run.metrics), read_json(run.prune_report), folder)
    if card.exists() and (card.read_bytes() == text.encode() or not is_listed(folder, FOR_PEOPLE)):
        return card
    with atomic_file(card) as partial:
        partial.write_bytes(text.encode())
    add_to_list(folder, FOR_PEOPLE)
    return card


def model_card(metrics: Mapping[str, Any], pruning: Mapping[str, Any], folder: Path) -> str:
    """The card for the content of a run's metrics.json and prune.json; how it loads follows from the model `folder`."""
    index = read_json(folder / "model_index.json")
    parts = {name: kind[0] for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None}
    pruned = [name for name, library in parts.items() if library == "pruned"]
    protocol: Rows = [(name, f"`protocol.{name}`", {"value": shown(value)}) for name, value in metrics["protocol"].items()]
    blocks = [INTRODUCTION.format(**metrics), "## Results", table(result_rows(metrics), "metrics.json"),
              "## Pruning", table(pruning_rows(pruning), "prune.json"), kept_dense(pruning),
              "## Protocol", "Only numbers of one protocol compare.", table(protocol, "metrics.json"), LOADING]
    if pruned and set(parts.values()) <= set(ABROAD) and "family" not in read_json(folder / pruned[0] / "widths.json"):
        blocks.append(LOADING_ABROAD.format(network=pruned[0]))
    return "\n\n".join(block.strip() for block in blocks if block) + "\n"


Rows = list[tuple[str, str, dict[str, str]]]       # title, the entries that are shown, {column: value}


def result_rows(metrics: Mapping[str, Any]) -> Rows:
    """Sizes, and every measure that was taken of any of the run's models; no times, which differ each day."""
    rows: Rows = [(title, f"`{key}`, `{key}_dense`", {TITLES["final"]: shown(metrics[key]),
                                                     TITLES["dense"]: shown(metrics[f"{key}_dense"])})
                  for key, title in SIZES.items()]
    own = {name: f"{measure['title']} {measure['arrow']}" for name, measure in metrics.get("measures", {}).items()}
    for key, title in ({measure.key: measure.heading(metrics["features"]) for measure in MEASURES} | own).items():
        entries = {state: f"{key}{suffix}" for state, suffix in STATES.items() if metrics.get(f"{key}{suffix}") is not None}
        if entries:
            rows.append((title, ", ".join(f"`{entry}`" for entry in entries.values()),
                         {TITLES[state]: shown(metrics[entry]) for state, entry in entries.items()}))
    return [*rows, ("images", "`images`", {TITLES["final"]: shown(metrics["images"])})]


def pruning_rows(pruning: Mapping[str, Any]) -> Rows:
    """The nominal ratio, and what was reached of a target and by compensation."""
    rows: Rows = [("nominal ratio", "`ratio`", {"value": shown(pruning["ratio"])})]
    if target := pruning.get("target"):
        rows += [(f"{target['quantity']} {word}", f"`target.{key}`", {"value": shown(target[key])})
                 for key, word in (("target", "to keep"), ("reached", "kept"))]
    if compensation := pruning.get("compensation"):
        rows.append(("images of the compensation", "`compensation.images`", {"value": shown(compensation["images"])}))
    return rows


def kept_dense(pruning: Mapping[str, Any]) -> str:
    """What was left as it was, and why, as a list; empty where that is nothing."""
    lines = [f"- `{entry['layer']}`: {entry['reason']}" for entry in pruning.get("skipped", [])]
    return "\n".join(["Left as it was (prune.json: `skipped`):", "", *lines]) if lines else ""


def table(rows: Rows, file: str) -> str:
    """Markdown with a column for each of the values, in the order in which they first come, and the entries of `file`."""
    columns = list(dict.fromkeys(column for _, _, values in rows for column in values))
    head = ["", *columns, f"in {file}"]
    body = [[title, *(values.get(column, "–") for column in columns), entries] for title, entries, values in rows]
    lines = [head, [":--", *["--:"] * len(columns), ":--"], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """A whole number or a word as it is, any other number with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
