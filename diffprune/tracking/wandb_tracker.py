"""A run in Weights & Biases."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from diffprune.config.naming import branch_of, prunes, words_of
from diffprune.runs.metrics import SPEED
from diffprune.runs.run import Run
from diffprune.runtime.files import read_json, write_json
from diffprune.tracking.tracker import Description, Tracker

log = logging.getLogger(__name__)
ID_LENGTH, TAG_LENGTH, NAME_LENGTH = 64, 64, 128    # letters; the service takes no longer ones
MARGIN = 5.0        # seconds beyond which a client is not waited for that should have given up by itself
SIZES = ("params", "macs")
SHORT = {"pruner.name": "prune/criterion", "pruner.ratio": "prune/ratio", "pruner.threshold": "prune/threshold",
         "schedule.steps": "train/steps"}      # {option: the name under which runs are grouped by it}
# (stage, kind, attribute of a run that holds its path) of every output that is an artifact, each made from the previous one.
OUTPUTS = (("scores", "scores", "scores"), ("pruned", "model", "pruned"), ("finetuned", "model", "finetuned"),
           ("samples", "images", "images"), ("metrics", "metrics", "metrics"))
T = TypeVar("T")


class WandbTracker(Tracker):
    """One Weights & Biases run per run folder, under an id made from its name, so that a resumed run goes on there. The
    first failure is logged, and the run continues without W&B; a silent server holds it up `patience` seconds at the start,
    and as long with the artifacts and with the end itself. `artifacts` uploads models, scores and images too, which are only
    named otherwise, and needs the patience for that."""
    keeps_images = True

    def __init__(self, project: str, entity: str | None, group: str | None, artifacts: bool = False, patience: float = 10.0,
                 tags: Sequence[str] = (), notes: str | None = None) -> None:
        self.project, self.entity, self.group, self.artifacts, self.patience = project, entity, group, artifacts, patience
        self.tags, self.notes = tags, notes
        self.warned = False                  # whether a failure was reported
        self.run: Any = None                 # the W&B run, until the first failure
        self.open: Any = None                # the W&B run, until it is closed

    def start(self, run: Run, description: Description) -> None:
        self.description, self.folder, self.warned = description, run, False
        self.run = self.open = self.guarded("start", lambda: self.opened(run, description))

    def opened(self, run: Run, description: Description) -> Any:
        """The open W&B run: online where somebody is logged in and the server answers, else offline."""
        import wandb
        folder = description.runs
        folder.mkdir(parents=True, exist_ok=True)
        write_below(folder)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")     # a silent server holds up a process's end for that
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        settings = wandb.Settings(silent=True, console="off", init_timeout=self.patience, finish_timeout=self.patience,
                                  finish_timeout_raises=False, x_graphql_timeout_seconds=self.patience)
        begin = partial(wandb.init, **self.labels(run, description), dir=folder, resume="allow", reinit="finish_previous",
                        settings=settings)
        try:
            opened = begin(mode=mode)
        except Exception as error:      # whatever the client raises where its server does not answer
            if mode == "offline":
                raise
            log.warning("W&B does not answer (%s): this run is kept offline", first_line(error))
            wandb.teardown()        # the failed attempt holds the id
            mode, opened = "offline", begin(mode="offline")
        describe(opened)
        if opened.url:
            write_json(run.tracked, {"url": opened.url})
        if mode == "offline":
            log.info("W&B offline: `wandb sync --id %s %s` sends this run later", opened.id,
                     folder / "wandb" / f"offline-run-*-{opened.id}")
        return opened

    def labels(self, run: Run, description: Description) -> dict[str, Any]:
        """What W&B files the run under, each within the lengths and letters that the service takes."""
        dataset, pruner, model = (description.options[group]["name"] for group in ("dataset", "pruner", "model"))
        tags = dict.fromkeys((dataset, pruner, model, *self.tags))
        return {"project": self.project, "entity": self.entity, "group": (self.group or dataset)[:NAME_LENGTH],
                "name": display_name(run.name, description.science)[:NAME_LENGTH], "id": run_id(run.name),
                "job_type": job_type(description.science),
                "tags": [name[:TAG_LENGTH] for name in tags if name],
                "notes": self.notes,
                "config": flat(description.options) | short_names(description.science)}

    def guarded(self, what: str, work: Callable[[], T]) -> T | None:
        """Does `work` and returns what it gives; after an error, of which the first is logged, nothing more is sent."""
        try:
            return work()
        except Exception as error:      # whatever the client raises: tracking never ends a run
            if not self.warned:
                log.warning("W&B: %s failed (%s); the run goes on without it, its folder has everything", what,
                            first_line(error))
            self.run, self.warned = None, True
            return None

    def log(self, values: dict[str, Any], step: int) -> None:
        named = {f"train/{name}": value for name, value in values.items()} | {"train/step": step}
        self.send("logging", lambda: self.run.log(named, step=step))

    def image(self, name: str, path: Path, step: int | None = None) -> None:
        def work() -> None:
            import wandb
            at = {} if step is None else {"train/step": step}
            # Without a step of its own it goes along with what is logged next, or step 0 would be over before it begins.
            self.run.log({f"images/{name}": wandb.Image(str(path))} | at, step=step, commit=None if at else False)
        self.send("an image", work)

    def summary(self, values: dict[str, Any]) -> None:
        self.send("the summary", lambda: self.run.summary.update(grouped(values)))

    def finish(self, failed: bool = False) -> None:
        opened = self.open
        self.send("what was pruned", self.pruning)
        self.send("artifacts", lambda: within(self.patience, self.lineage))
        if opened is not None:
            self.guarded("the end", lambda: within(self.patience + MARGIN, lambda: opened.finish(exit_code=int(failed))))
        self.run = self.open = None

    def send(self, what: str, work: Callable[[], Any]) -> None:
        """Does `work` as `guarded` does; nothing where there is no open run."""
        if self.run is not None:
            self.guarded(what, work)

    def pruning(self) -> None:
        """Sends what pruning achieved, where the run has pruned."""
        if self.folder.prune_report.exists():
            report = read_json(self.folder.prune_report)
            self.run.summary.update(grouped({name: report[name] for size in SIZES for name in (size, f"{size}_dense")}))

    def lineage(self) -> None:
        """Logs every existing output of a stage as an artifact; each is made from the previous one, which the run used."""
        name = made = None
        model = self.description.options["model"]
        if model["checkpoint"] is not None:
            name = plain_name(f"{model['name']}-dense", NAME_LENGTH)
            made = self.artifact(name, "model", None, None)
        for stage, kind, path in OUTPUTS:
            output = getattr(self.folder, path)
            if not output.exists():
                continue
            if made is not None and not self.run.offline:   # an offline run can only name what it used
                self.run.use_artifact(made)
            previous, name = name, plain_name(f"{self.run.id}-{stage}", NAME_LENGTH)
            made = self.run.log_artifact(self.artifact(name, kind, output, previous))
            if not self.run.offline:
                made.wait()     # only what the service has can be used

    def artifact(self, name: str, kind: str, path: Path | None, made_from: str | None) -> Any:
        """An artifact: metrics with their content, large files with it only if `artifacts` is set, else by their path."""
        import wandb
        out = wandb.Artifact(name, kind, metadata={"made_from": made_from, "path": None if path is None else str(path)})
        if path is None:
            out.metadata["checkpoint"] = self.description.options["model"]["checkpoint"]
        elif self.artifacts or kind == "metrics":
            (out.add_dir if path.is_dir() else out.add_file)(str(path))
        else:
            out.add_reference(path.absolute().as_uri(), name=path.name, checksum=False)
        return out


def plain_name(name: str, length: int) -> str:
    """The last `length` letters of `name`, with a dash for what W&B takes in no id and no artifact's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[-length:]


def run_id(name: str) -> str:
    """The id of the W&B run of the run folder `name`, which ends in a hash: no two runs share an id."""
    return plain_name(name, ID_LENGTH)


def display_name(name: str, science: dict[str, Any]) -> str:
    """What the run folder `name` says between the model and the hash: what the run does, and what its sweep varies."""
    *words, seed = words_of(science)
    varied = name.removeprefix("-".join([science["model"]["name"], *words, ""])).rpartition(f"{seed}-")[0].strip("-")
    return " ".join(filter(None, [*words, varied, seed]))


def describe(run: Any) -> None:
    """Tells an open W&B run over what each metric is drawn, and which of its values a table of runs shows."""
    run.define_metric("train/step", hidden=True)
    for name, summary in (("train/loss", "min,last"), ("train/lr", "last"), ("train/seconds", "max"), ("train/*", "last")):
        run.define_metric(name, step_metric="train/step", summary=summary)
    run.define_metric("images/preview", step_metric="train/step")


def grouped(values: dict[str, Any]) -> dict[str, Any]:
    """The final numbers, grouped by subject: `achieved/macs_ratio`, `quality/fid`, `speed/speedup`."""
    groups = dict.fromkeys(SPEED, "speed") | {f"{size}{suffix}": "achieved" for size in SIZES for suffix in ("", "_dense")}
    out = {f"{groups.get(name, 'quality')}/{name}": value for name, value in values.items()}
    for size in SIZES:
        if values.get(size) and values.get(f"{size}_dense"):
            out[f"achieved/{size}_ratio"] = values[size] / values[f"{size}_dense"]
    return out


def short_names(science: dict[str, Any]) -> dict[str, Any]:
    """The options in which cells of most sweeps differ, under `SHORT` names; options without effect are left out."""
    values = {name: branch_of(science, key).get(key.rpartition(".")[2]) for key, name in SHORT.items()}
    return {name: value for name, value in values.items() if value is not None}


def job_type(science: dict[str, Any]) -> str:
    """What a run with these scientific options does: prune, scratch, train, or nothing (dense)."""
    if prunes(science):
        return "scratch" if science["pruner"]["reinitialise"] else "prune"
    return "train" if science["schedule"]["steps"] else "dense"


def within(seconds: float, work: Callable[[], Any]) -> None:
    """Does `work` in a thread, which is left behind where it takes longer: TimeoutError. Raises what `work` raises."""
    outcome: Future[None] = Future()

    def attempt() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:      # handed on to the thread that waits
            outcome.set_exception(error)

    Thread(target=attempt, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    outcome.result()


def write_below(folder: Path) -> None:
    """Lets the client keep its own files in `folder` where it cannot in the home folder."""
    home = Path(os.path.expanduser("~"))
    if not (home.is_dir() and os.access(home, os.W_OK)):
        for kind in ("CACHE", "DATA", "CONFIG"):
            os.environ.setdefault(f"WANDB_{kind}_DIR", str((folder / "wandb" / kind.lower()).absolute()))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def logged_in() -> bool:
    """Whether an API key is at hand, determined without a prompt and without the server."""
    import wandb
    return bool(wandb.login(prompt=False, verify=False))


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{`group/option`: value} of nested options: one level, so that a dashboard can group and filter by every option."""
    values: dict[str, Any] = {}
    for name, value in options.items():
        values |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values
