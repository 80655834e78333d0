"""The protocol under which a run's numbers were made, and what of it differs between runs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffprune.report.finished import Finished

UNTRAINED = ("ema",)    # what of a run's protocol does not apply to the dense model it started from
# Entries that a run may lack and agree with any value: it was not trained, or it is older than they are (the last four say
# how KID, precision, recall and the held-out loss were made, which such a run has none of).
MAY_LACK = (*UNTRAINED, "features_sha256", "subset", "kid_subset", "neighbours", "held_out")
WARM_UP = " with warm-up"
UNLESS_STATED = {"guidance": 1.0}       # what the absence of an entry means


def protocol_of(run: Finished) -> dict[str, Any]:
    """The run's protocol, the kind of features its images are compared on included."""
    return {"features": run.metrics.features, **run.metrics.protocol}


def entries_of(run: Finished, names: list[str]) -> dict[str, Any]:
    """{name: value} of these entries of the run's protocol; for one that it does not state what that means, else None."""
    stated = {name: as_compared(value) for name, value in protocol_of(run).items() if value is not None}
    return {name: stated.get(name, UNLESS_STATED.get(name)) for name in names}


def as_compared(value: Any) -> Any:
    """An entry as it is compared: an average that warms up, which it does where the training is short, is that of its decay;
    how long a training is belongs to the configuration."""
    warmed_up = isinstance(value, str) and value.endswith(WARM_UP)
    return float(value.removesuffix(WARM_UP)) if warmed_up else value


def protocol_differences(runs: list[Finished]) -> dict[str, list[Any]]:
    """{entry of the protocol: its values} for the entries that differ. That a run lacks an entry, or states it as null, is a
    value too, None, but for the entries in MAY_LACK."""
    names = dict.fromkeys(name for run in runs for name in protocol_of(run))
    statements = [entries_of(run, list(names)) for run in runs]
    lacking = {name: [None] for name in names if name not in MAY_LACK and any(own[name] is None for own in statements)}
    statements_of = {name: [*values, *lacking.get(name, [])] for name, values in collected(statements).items()}
    return {name: values for name, values in statements_of.items() if len(values) > 1}


def differences(statements: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """{name: its distinct values but null}, where they are several."""
    return {name: values for name, values in collected(statements).items() if len(values) > 1}


def shared(statements: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """{name: its value} of what all statements that have it state alike."""
    return {name: values[0] for name, values in collected(statements).items() if len(values) == 1}


def collected(statements: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """{name: its distinct values but null} over all statements."""
    values: dict[str, list[Any]] = defaultdict(list)
    for statement in statements:
        for name, value in statement.items():
            if value is not None and value not in values[name]:
                values[name].append(value)
    return values


def sentence(differing: dict[str, list[Any]]) -> str:
    """What differs, in words: `steps is 50 or not stated; …`."""
    return "; ".join(f"{name} is {' or '.join('not stated' if value is None else str(value) for value in values)}"
                     for name, values in differing.items())


def made_with(runs: Sequence[Finished]) -> str:
    """How many images, which seeds and which sampler are behind the numbers, in a line for a figure."""
    stated = collected(protocol_of(run) for run in runs)
    images, *sampler, features = (" or ".join(map(str, stated.get(name, ["?"])))
                                  for name in ("images", "sampler", "spacing", "steps", "features"))
    return f"n = {images} images, {seeds_of(runs)}; {' '.join(sampler)} steps; {features} features"


def seeds_of(runs: Sequence[Finished]) -> str:
    """`seed 0`, `seeds 0 to 2`, `seeds 0, 2`"""
    seeds = sorted({run.options["seed"] for run in runs})
    in_a_row = len(seeds) > 2 and seeds == [*range(seeds[0], seeds[-1] + 1)]
    return f"seed{'s' * (len(seeds) > 1)} " + (f"{seeds[0]} to {seeds[-1]}" if in_a_row else ", ".join(map(str, seeds)))
