"""`python -m diffprune.export RUN --to onnx|torch`: the denoiser as a file for other programs, compared with itself."""

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, is_folder, write_json

LARGEST_DIFFERENCE = 1e-4       # of any number that is predicted
ROUNDS = 9
ENDINGS = {"onnx": "onnx", "torch": "pt2"}

Predict = Callable[[Mapping[str, Tensor]], Tensor]      # {input: its value} -> the prediction [B, C, H, W]


@dataclass(frozen=True)
class Exported:
    """The `file` that a network was exported to, in the format `to`, for batches of `batch`: the shapes of its `inputs`, the
    largest `difference` of its predictions from the network's, and the milliseconds of an evaluation by both, timed in turn
    on `device`."""
    file: str
    to: str
    batch: int
    inputs: dict[str, list[int]]
    difference: float
    milliseconds: float
    milliseconds_eager: float
    device: str


class Denoiser(nn.Module):
    """A network of diffusers whose inputs have an order and whose output is a tensor."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, list(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(**dict(zip(self.names, inputs, strict=True))).sample


def export(unet: nn.Module, timesteps: int, to: str, batch: int, folder: Path) -> Exported:
    """Writes `denoiser.onnx` or `denoiser.pt2`, and what was found of it beside it, into `folder`.

    The file takes `batch` images. UserError, and there is no file, where one of its predictions at the first, middle and
    last of the `timesteps` differs by more than LARGEST_DIFFERENCE.
    """
    denoiser = Denoiser(unet.eval(), list(inputs_of(unet, batch, 0)))
    cases = [inputs_of(unet, batch, t) for t in (0, timesteps // 2, timesteps - 1)]
    with torch.no_grad(), atomic_file(folder / f"denoiser.{ENDINGS[to]}") as partial:
        predict = {"onnx": to_onnx, "torch": to_torch}[to](denoiser, cases[0], partial)

        def eager(inputs: Mapping[str, Tensor]) -> Tensor:
            return denoiser(*inputs.values())

        difference = max(float((predict(inputs) - eager(inputs)).abs().max()) for inputs in cases)
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(f"the exported network's predictions differ from the network's by {difference:.3g}, more than "
                            f"{LARGEST_DIFFERENCE:g}: give --to {'torch' if to == 'onnx' else 'onnx'}")
        result = timed(predict, eager, cases[1])
    file = folder / f"denoiser.{ENDINGS[to]}"
    shapes = {name: list(value.shape) for name, value in cases[0].items()}
    exported = Exported(file.name, to, batch, shapes, difference, *result)
    write_json(folder / f"{file.name}.json", asdict(exported))
    return exported


def inputs_of(unet: nn.Module, batch: int, t: int) -> dict[str, Tensor]:
    """Random inputs, the same at every call, of one evaluation of `batch` images at timestep `t`."""
    from diffprune.models.cost import example_inputs
    rng = torch.Generator().manual_seed(t)
    given = example_inputs(unet, batch)
    if not all(isinstance(value, Tensor) for value in given.values()):
        raise UserError(f"the {type(unet).__name__} is conditional on several things at once: only networks whose inputs "
                        "are one tensor each can be exported")
    inputs = {name: value.contiguous() for name, value in given.items()}
    drawn = {name: torch.randn(value.shape, generator=rng) for name, value in inputs.items() if value.is_floating_point()}
    return inputs | drawn | {"timestep": torch.full_like(inputs["timestep"], t)}


def to_torch(denoiser: Denoiser, inputs: Mapping[str, Tensor], file: Path) -> Predict:
    """Writes what `torch.export.load` reads; the network in that file."""
    torch.export.save(torch.export.export(denoiser, tuple(inputs.values())), file)
    loaded = torch.export.load(file).module()
    return lambda inputs: loaded(*inputs.values())


def to_onnx(denoiser: Denoiser, inputs: Mapping[str, Tensor], file: Path) -> Predict:
    """Writes an ONNX file; the network in that file, as onnxruntime evaluates it on as many threads as PyTorch."""
    import onnx  # noqa: F401  what PyTorch exports with; missing, it is named by its own name
    import onnxruntime
    import onnxscript  # noqa: F401
    torch.onnx.export(denoiser, tuple(inputs.values()), file, dynamo=True, verbose=False, external_data=False,
                      input_names=list(inputs), output_names=["prediction"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def timed(predict: Predict, eager: Predict, inputs: Mapping[str, Tensor]) -> tuple[float, float, str]:
    """Milliseconds of an evaluation by the exported network and by the network itself, and the device."""
    from diffprune.evaluation.speed import hardware, time_in_turn
    cpu = torch.device("cpu")
    timings = time_in_turn({"exported": lambda: predict(inputs), "eager": lambda: eager(inputs)}, ROUNDS, cpu, "timing")
    return 1e3 * timings["exported"].median, 1e3 * timings["eager"].median, hardware(cpu)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a user's mistake ends it with one sentence and a non-zero exit."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with one_sentence():
        if not is_folder(options.run):
            raise UserError(f"{options.run} is no folder: give a run's, or a model folder")
        if options.batch < 1:
            raise UserError(f"--batch {options.batch} is no number of images: give at least 1")
        from diffprune.api.folders import model_folder
        from diffprune.models.model_folder import load_model
        model = load_model(model_folder(str(options.run)))
        exported = export(model.unet, model.process.timesteps, options.to, options.batch, options.run / "export")
    print(f"{options.run / 'export' / exported.file}: inputs {json.dumps(exported.inputs)}; largest difference "
          f"{exported.difference:.2g}; {exported.milliseconds:.2f} ms an evaluation, in PyTorch "
          f"{exported.milliseconds_eager:.2f} ms ({exported.device})")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m diffprune.export", description=(
        "Writes the denoiser of a run's final model, or of a model folder, into its folder export/ as a file for other "
        "programs: inputs sample, timestep and what conditions it, output the prediction."))
    described.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or a model folder")
    described.add_argument("--to", choices=ENDINGS, required=True, help="onnx (the extra export), or torch.export's file")
    described.add_argument("--batch", type=int, default=1, help="images of one evaluation")
    return described


if __name__ == "__main__":
    main()
