"""The Inception score, summed up image by image."""

import numpy as np
from torch import Tensor

SPLITS = 10


class InceptionScore:
    """exp(mean KL(p(y|x) || p(y))), the mean over ten equal splits of `count` images in their order.

    Salimans et al. 2016, section 4. Only sums of p and of p log p are kept: KL(p || q) averaged over a split is
    mean(sum p log p) - sum q log q, where q is the split's mean p.
    """

    def __init__(self, count: int) -> None:
        self.bounds = [split * count // SPLITS for split in range(SPLITS + 1)]
        self.done, self.p, self.p_log_p = 0, None, np.zeros(SPLITS)

    def add(self, logits: Tensor) -> None:
        """Takes the next images' `logits` [B, classes]."""
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        own, places = (p * log_p).sum(1).cpu().numpy(), np.arange(self.done, self.done + len(p))
        splits = np.searchsorted(self.bounds, places, side="right") - 1
        if self.p is None:
            self.p = np.zeros((SPLITS, p.shape[1]))
        np.add.at(self.p, splits, p.cpu().numpy())
        np.add.at(self.p_log_p, splits, own)
        self.done += len(p)

    def value(self) -> float | None:
        """From 1 to the number of classes; None with fewer images than splits."""
        sizes = np.diff(self.bounds)
        if self.p is None or sizes.min() < 1:
            return None
        q = self.p / sizes[:, None]
        entropy = np.where(q > 0, q * np.log(q.clip(min=np.finfo(float).tiny)), 0).sum(1)
        return float(np.exp(self.p_log_p / sizes - entropy).mean())
