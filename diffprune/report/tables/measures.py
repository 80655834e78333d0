"""What is measured of a model's images: its name in metrics.json, and its title in a table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """`key` is its name in metrics.json, `arrow` says where better values lie. A measure `of_features` is another quantity
    on other features; one that is `to_dense` compares with the dense model."""
    key: str
    title: str
    arrow: str
    of_features: bool
    to_dense: bool
    decimals: int = 2

    def name(self, features: str) -> str:
        """The quantity that it is on these features."""
        return f"{self.key}_{features}" if self.of_features else self.key

    def heading(self, features: str, before_healing: bool = False) -> str:
        """Its title in a table: `KID (inception features) ↓`."""
        title = self.title.removesuffix(" to dense") + " before healing" if before_healing else self.title
        return f"{title}{f' ({features} features)' if self.of_features else ''} {self.arrow}"


MEASURES = (
    Measure("fid", "Fréchet distance", "↓", of_features=True, to_dense=False),
    Measure("ssim", "SSIM to dense", "↑", of_features=False, to_dense=True, decimals=3),
    Measure("held_out_loss", "held-out loss", "↓", of_features=False, to_dense=False, decimals=3),
    Measure("kid", "KID", "↓", of_features=True, to_dense=False),
    Measure("precision", "precision", "↑", of_features=True, to_dense=False, decimals=3),
    Measure("recall", "recall", "↑", of_features=True, to_dense=False, decimals=3),
    Measure("inception_score", "Inception score", "↑", of_features=True, to_dense=False),
    Measure("fid_to_dense", "Fréchet distance to dense", "↓", of_features=True, to_dense=True),
    Measure("psnr", "PSNR to dense [dB]", "↑", of_features=False, to_dense=True),
    Measure("rmse", "RMSE to dense", "↓", of_features=False, to_dense=True),
)
