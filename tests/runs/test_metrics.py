"""The numbers of a run under the names of metrics.json."""

import json
from dataclasses import replace
from pathlib import Path

from diffprune.runs.metrics import Metrics

SCORES = {"dense": {"fid": 6.0, "ssim": None},
          "final": {"fid": 20.0, "ssim": 0.9, "fid_to_dense": 5.0}, "before_healing": {"fid": 200.0, "ssim": 0.7}}


def metrics() -> Metrics:
    return Metrics("run", "digits", "ddpm_digits", "diff_pruning", "finetune_digits", 0, 10, 100, 20, 200, "digits-cnn", 64,
                   SCORES, {"images_per_second": 3.0, "images_per_second_dense": 2.0, "speedup": 1.5}, {"steps": 20},
                   {"torch": "2"}, {"score": 1.0}, "cpu", "python -m diffprune", None)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    metrics().write(tmp_path / "metrics.json")
    assert Metrics.read(tmp_path / "metrics.json") == metrics()


def test_the_losses_on_held_out_images_are_read_again_and_left_out_where_there_are_none(tmp_path: Path) -> None:
    metrics().write(tmp_path / "without.json")
    assert "held_out_losses" not in json.loads((tmp_path / "without.json").read_text())
    measured = replace(metrics(), held_out_losses={"dense": [2.0, 1.0], "final": [3.0, 1.0]},
                       scores={**SCORES, "dense": {"held_out_loss": 1.5}, "final": {"held_out_loss": 2.0}})
    measured.write(tmp_path / "with.json")
    content = json.loads((tmp_path / "with.json").read_text())
    assert (content["held_out_loss"], content["held_out_loss_dense"]) == (2.0, 1.5)
    assert Metrics.read(tmp_path / "with.json") == measured


def test_each_state_has_its_suffix(tmp_path: Path) -> None:
    metrics().write(tmp_path / "metrics.json")
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert (content["fid"], content["fid_dense"], content["fid_before_healing"]) == (20.0, 6.0, 200.0)
    assert (content["params_dense"], content["speedup"], content["protocol"]) == (20, 1.5, {"steps": 20})
