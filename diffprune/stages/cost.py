"""What a run has cost, in multiply-accumulates, stage by stage; as if nothing had been in the cache."""

from collections.abc import Sequence

from diffprune.config.schema import EVALUATIONS_PER_STEP
from diffprune.pruning.prune_report import PruneReport
from diffprune.runs.run import Run
from diffprune.runs.score_file import ScoreHeader
from diffprune.runtime.files import read_json
from diffprune.training.recipe import Recipe


def cost(rounds: Sequence[Run], recipes: Sequence[Recipe], calibration_images: int, second_pass: bool,
         evaluations: int) -> dict[str, int]:
    """{"score", "compensate", "finetune", "sample": multiply-accumulates}, summed over the rounds of a run.

    An evaluation is that of one image as models/cost.py counts it, a forward and backward pass three of them. A scoring pass
    evaluates every timestep of the `calibration_images`, and goes back where the gradient counts, in a `second_pass` for
    policies that need all losses first. `recipes`: how each round fine-tunes, teachers included; none for a run that does
    not. `evaluations`: those of the final model for all images that are drawn.
    """
    spent, reports = {"score": 0, "compensate": 0, "finetune": 0}, [PruneReport.read(each.prune_report) for each in rounds]
    scored = reports[0].macs_dense
    for i, (each, report) in enumerate(zip(rounds, reports, strict=True)):
        spent["score"] += calibration_images * scoring_evaluations(each, second_pass) * scored
        spent["compensate"] += compensation_macs(each)
        if recipes:
            spent["finetune"] += recipes[i].steps * recipes[i].step_macs(report.macs, report.macs_dense)
        scored = report.macs
    return spent | {"sample": evaluations * reports[-1].macs}


def scoring_evaluations(run: Run, second_pass: bool) -> int:
    """How many evaluations of an image a round's scoring pass takes; 0 for a criterion without gradients."""
    losses = ScoreHeader.read(run.scores).losses
    if losses is None:
        return 0
    counted = losses.kept if losses.alpha is None else int((losses.alpha != 0).sum())
    return len(losses.loss) + (EVALUATIONS_PER_STEP if second_pass else EVALUATIONS_PER_STEP - 1) * counted


def compensation_macs(run: Run) -> int:
    """What the compensation of a round took; 0 without any."""
    return read_json(run.prune_report).get("compensation", {}).get("macs", 0)


def affordable_steps(recipe: Recipe, run: Run) -> int:
    """As many steps, at least one, as the cost of `recipe.steps` under the noise objective alone pays for; compensation is
    paid from it first."""
    report = PruneReport.read(run.prune_report)
    budget = recipe.steps * recipe.batch * EVALUATIONS_PER_STEP * report.macs - compensation_macs(run)
    return max(1, budget // recipe.step_macs(report.macs, report.macs_dense))
