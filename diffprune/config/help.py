"""What `python -m diffprune --help` prints: examples, the other commands, every option with its value, range and meaning."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from math import inf, isfinite
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from omegaconf import OmegaConf

from diffprune.config.validation import options

EXAMPLES = {
    "diffprune": "the digits at nominal ratio .3: a minute on a CPU, no download",
    "diffprune pruner=diffprune pruner.target.macs=.5": "this project's method, to half of the multiply-accumulates",
    "diffprune -m pruner=random,magnitude,diff_pruning seed=0,1,2": "a sweep",
    "diffprune experiment=cifar10_diff_pruning dataset.path=DIR": "a run of the paper, with a local copy of the data",
    "diffprune model=diffusers model.checkpoint=DIR dataset=image_folder dataset.path=DIR": "your own model and images"}
COMMANDS = {
    "python -m experiments list | plan | run | status | report": "the tables and figures",
    "python -m diffprune.report RUNS": "any finished runs side by side",
    "python -m diffprune.cost | .measure | .bench": "sizes before a run; scores of any two sets of images; speed here",
    "python -m diffprune.convert ORIGINAL OUT": "a model folder of an original checkpoint",
    "python -m diffprune.export RUN --to onnx|torch": "the denoiser of a run's final model for other programs"}
ENDING = """What a model's networks are built with (model.unet, model.scheduler) is in conf/model. --cfg job prints all
options as YAML, --hydra-help what Hydra adds. Completion in bash: eval "$$(diffprune -sc install=bash)"."""
LINE = re.compile(r"(?P<indent> *)(?P<name>\w+):[^#]*(?:#\s(?P<text>.*))?")
CONTINUED = re.compile(r"\s*#\s(.*)")
TINY, HUGE = 1e-6, 2**31    # limits that stand for none
WIDTH, LEFT = 120, 34       # columns of the help at most, and of an option with its value


def help_text(cfg: Any, conf: Path) -> str:
    """The help of the composed options `cfg`, whose meanings are the comments of the files in `conf`. It is a template of
    Python's, in which Hydra fills $APP_CONFIG_GROUPS."""
    meanings = dict(comments(conf / "config.yaml", ""))
    for group in [key for key in map(str, cfg) if (conf / key).is_dir()]:
        default = conf / group / "default.yaml"     # without one, the choices have different options
        for file in [default] if default.exists() else sorted((conf / group).glob("*.yaml")):
            meanings |= comments(file, group)
    lines = ["Prunes a diffusion model, fine-tunes it, samples from it and scores the images.", ""]
    for title, entries in (("Examples", EXAMPLES), ("Other commands", COMMANDS)):
        lines += [f"{title}:", *(f"  {command}\n      {about}" for command, about in entries.items()), ""]
    lines += ["Choices, GROUP=CHOICE (`default` and the group `schema` hold what the choices share; they are none):", "",
              "$APP_CONFIG_GROUPS", "", "Options, NAME=VALUE, with the values that this command would take:", ""]
    for key, value, metadata in options(cfg):
        if not metadata and key.startswith("model."):   # what its networks are built with
            continue
        meaning = meanings.get(key) or (metadata or {}).get("meaning") or meanings.pop(key.rpartition(".")[0], "")
        about = "; ".join(filter(None, (meaning, limits(metadata or {}, meaning))))
        lines.append(entry(f"{key}={shown(value)}", about).replace("$", "$$"))
    return "\n".join([*lines, "", ENDING])


def comments(file: Path, group: str) -> Iterator[tuple[str, str]]:
    """(dotted option, its comment) of every commented line of a YAML file, a comment's further lines included."""
    parents: list[tuple[int, str]] = [(-1, group)] if group else []
    key, texts = "", []
    for line in [*file.read_text(encoding="utf-8").splitlines(), "end:"]:
        if (more := CONTINUED.fullmatch(line)) and key:
            texts.append(more[1])
            continue
        if key and texts:
            yield key, " ".join(texts)
        key, texts = "", []
        if match := LINE.fullmatch(line):
            indent = len(match["indent"])
            parents = [parent for parent in parents if parent[0] < indent] + [(indent, match["name"])]
            key, texts = ".".join(name for _, name in parents), [match["text"]] if match["text"] else []


def limits(metadata: Mapping[str, Any], meaning: str) -> str:
    """The choices or the range of an option in words, but for choices that its `meaning` lists already."""
    if choices := metadata.get("choices"):
        names = [str(choice) for choice in choices]
        return "" if all(name in meaning for name in names) else " | ".join(names)
    low, below = metadata.get("low", -inf), metadata.get("below", inf)
    if not isfinite(low):
        return ""
    least = "above 0" if 0 < low <= TINY else f"at least {low:g}"
    return least if below >= HUGE else f"{least}, below {below:g}"


def shown(value: Any) -> str:
    """A value as one types it."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if plain is None or isinstance(plain, bool):
        return {None: "null", True: "true", False: "false"}[plain]
    return str(plain)


def entry(left: str, about: str) -> str:
    """An option and, beside it or below where it is long, its meaning."""
    width = min(WIDTH, get_terminal_size((WIDTH, 0)).columns)
    if not about:
        return f"  {left}"
    lines = textwrap.wrap(about, max(30, width - LEFT - 2))
    first = f"  {left:<{LEFT - 2}}  {lines[0]}" if len(left) <= LEFT - 2 else f"  {left}\n{' ' * (LEFT + 2)}{lines[0]}"
    return "\n".join([first, *(f"{' ' * (LEFT + 2)}{line}" for line in lines[1:])])
