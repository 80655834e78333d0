"""What is measured of a model's images beside their Fréchet distance to the data, SSIM and speed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """`key` is its name in metrics.json, `arrow` says where better values lie.

    A measure `of_features` is another quantity on other features; one that is `to_dense` compares with the dense model.
    """
    key: str
    title: str
    arrow: str
    of_features: bool
    to_dense: bool
    decimals: int = 2

    def name(self, features: str) -> str:
        """The quantity that it is on these features."""
        return f"{self.key}_{features}" if self.of_features else self.key

    def heading(self, features: str, when: str = "") -> str:
        on = f" ({features} features)" if self.of_features else ""
        return f"{self.title}{when}{on} {self.arrow}"


MEASURES = (
    Measure("kid", "KID", "↓", of_features=True, to_dense=False),
    Measure("precision", "precision", "↑", of_features=True, to_dense=False, decimals=3),
    Measure("recall", "recall", "↑", of_features=True, to_dense=False, decimals=3),
    Measure("inception_score", "Inception score", "↑", of_features=True, to_dense=False),
    Measure("fid_to_dense", "Fréchet distance to dense", "↓", of_features=True, to_dense=True),
    Measure("psnr", "PSNR to dense [dB]", "↑", of_features=False, to_dense=True),
    Measure("rmse", "RMSE to dense", "↓", of_features=False, to_dense=True),
)
