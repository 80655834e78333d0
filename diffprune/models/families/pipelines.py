"""Diffusers' pipelines of unconditional models, drawing with whatever scheduler takes the place of their own."""

from typing import Any

import torch
from diffusers.pipelines.ddim import pipeline_ddim
from diffusers.pipelines.ddpm import pipeline_ddpm
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor

from diffprune.models.network import config_of, height_and_width
from diffprune.models.scheduler_steps import Generators, drawn


def images_of(pipeline: Any, batch_size: int, generator: Generators, eta: float, steps: int,
              output_type: str | None) -> ImagePipelineOutput:
    """`batch_size` images of an unconditional pipeline: PIL images, or arrays or tensors in [0, 1] ("np", "pt")."""
    unet = pipeline.unet
    shape = batch_size, config_of(unet)["in_channels"], *height_and_width(unet)
    noise = randn_tensor(shape, generator=generator, device=pipeline._execution_device, dtype=unet.dtype)
    x = drawn(pipeline.scheduler, lambda x, t: unet(x, t).sample, noise, steps, eta, generator, pipeline.progress_bar)
    images: Any = (x / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return ImagePipelineOutput(images=images)
    array = images.cpu().permute(0, 2, 3, 1).float().numpy()
    return ImagePipelineOutput(images=DiffusionPipeline.numpy_to_pil(array) if output_type == "pil" else array)


class DDIMPipeline(pipeline_ddim.DDIMPipeline):
    """Diffusers' DDIMPipeline, which model folders name, for any scheduler of the same process put in place of its own."""

    @torch.no_grad()
    def __call__(self, batch_size: int = 1, generator: Generators = None, eta: float = 0.0, num_inference_steps: int = 50,
                 use_clipped_model_output: bool | None = None, output_type: str | None = "pil",
                 return_dict: bool = True) -> Any:
        """As diffusers' own; ValueError for an `eta` above 0 where the scheduler takes none."""
        if isinstance(self.scheduler, DDIMScheduler):
            return super().__call__(batch_size, generator, eta, num_inference_steps, use_clipped_model_output, output_type,
                                    return_dict)
        result = images_of(self, batch_size, generator, eta, num_inference_steps, output_type)
        return result if return_dict else (result.images,)


class DDPMPipeline(pipeline_ddpm.DDPMPipeline):
    """Diffusers' DDPMPipeline, which folders of models trained by flow matching or with EDM name, for their schedulers."""

    @torch.no_grad()
    def __call__(self, batch_size: int = 1, generator: Generators = None, num_inference_steps: int = 50,
                 output_type: str | None = "pil", return_dict: bool = True) -> Any:
        """As diffusers' own, but for the number of steps unless it is given."""
        result = images_of(self, batch_size, generator, 0.0, num_inference_steps, output_type)
        return result if return_dict else (result.images,)
