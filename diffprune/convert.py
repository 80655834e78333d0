"""Original DDIM and CompVis checkpoints → a model folder: `python -m diffprune.convert ORIGINAL OUT`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffprune.models.formats.read import FORMATS, read_model
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import check_replaceable


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a user's mistake ends it with one sentence and a non-zero exit."""
    options = parser().parse_args(arguments)
    with one_sentence():
        check_out(options.out, options.original, options.overwrite)
        model = read_model(options.original, options.format, options.config, options.resolution, options.weights)
        from diffprune.models.model_folder import save_model
        save_model(model, options.out)
    million = sum(parameter.numel() for parameter in model.unet.parameters()) / 1e6
    channels, height, width = model.shape
    print(f"{options.out}: {type(model.unet).__name__}, {million:.1f} M parameters, {channels}x{height}x{width}")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m diffprune.convert", description=(
        "Converts a checkpoint of the DDIM code base or of CompVis' latent diffusion into a model folder."))
    add = described.add_argument
    add("original", type=Path, metavar="ORIGINAL", help="checkpoint file: .safetensors, .pt, .pth or .ckpt")
    add("out", type=Path, metavar="OUT", help="model folder to write")
    add("--format", choices=FORMATS, help="format of ORIGINAL; its keys tell, where this is left out")
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (ddim: required)")
    add("--config", type=Path, metavar="FILE", help="its original YAML, or the same as JSON (compvis: required)")
    add("--weights", choices=("ema", "model"), help="which weights, where ORIGINAL holds an EMA beside the model")
    add("--overwrite", action="store_true", help="replace the model folder OUT if there is one")
    return described


def check_out(out: Path, original: Path, overwrite: bool) -> None:
    """UserError where writing `out` would lose something."""
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT {out} is a file, give a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"OUT {out} is not empty, give another folder or add --overwrite")
    if not (out / "model_index.json").exists() or out.resolve() in original.resolve().parents:
        raise UserError(f"OUT {out} holds more than a model folder, --overwrite would delete it; give another folder")
    check_replaceable(out, mark="*/widths.json")


if __name__ == "__main__":
    main()
