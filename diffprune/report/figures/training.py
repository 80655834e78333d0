"""The loss of a run's training."""

import numpy as np

from diffprune.report.figures.chart import Absent, Chart, Series
from diffprune.report.finished import Finished

PART = 20       # the running mean is over this part of the logged steps


def training_loss(run: Finished) -> Chart | Absent:
    """The training loss over the steps, and its running mean."""
    if len(run.progress) < 2:
        return Absent("Loss of training", f"it takes two logged steps, of {run.options['schedule']['steps']} there are "
                      f"{len(run.progress)}")
    steps, loss = ([float(line[key]) for line in run.progress] for key in ("step", "loss"))
    window = max(1, len(loss) // PART)
    mean = np.convolve(loss, np.ones(window) / window, "valid").tolist()
    smooth = Series(f"mean of the last {window}", steps[window - 1:], mean, colour=1, line=True, marks=False)
    return Chart(
        "healing", "Loss of training", "Squared error on random timesteps.",
        f"Training loss over {steps[-1]:g} steps, from {loss[0]:.3g} to {loss[-1]:.3g}; mean of the last {window} logged "
        f"steps {mean[-1]:.3g}.", "training step", "squared error, summed over pixels",
        [Series("logged steps", steps, loss, line=True, marks=False), *([smooth] if window > 1 else [])],
        log_y=min(loss) > 0)
