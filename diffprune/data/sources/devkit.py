"""The classes of ImageNet's validation images as its development kit has them: a list of numbers, and what they mean."""

import os
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from diffprune.data.sources.names import unpacked
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import is_file

META = "meta.mat"
UNREADABLE = (MatReadError, OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, zlib.error)


def classes_of_kit(names: pa.Array, numbers: list[int], file: Path) -> tuple[torch.Tensor, int]:
    """The class of every image, int64 [N], and the number of classes: line i of `file`, in `numbers`, is of the image whose
    name ends in i.

    A number is that of the kit's meta.mat, next to `file`; the classes 0, 1, … are the sorted synsets. Raises UserError
    for an image or a number that is missing.
    """
    places, labels = classes_by_number(file), []
    for name in map(os.fsdecode, unpacked(names)):
        number = re.search(r"(\d+)\.\w+$", name)
        line = int(number[1]) if number else 0
        if not 1 <= line <= len(numbers) or numbers[line - 1] not in places:
            raise UserError(f"dataset.labels={file} has no class for {name}: give images with the names they are published "
                            "with, ILSVRC2012_val_00000001.JPEG and so on")
        labels.append(places[numbers[line - 1]])
    return torch.tensor(labels), len(places)


def classes_by_number(file: Path) -> dict[int, int]:
    """{the kit's number of a class: its place among the sorted synsets} from the meta.mat next to `file`."""
    meta = file.with_name(META)
    if not is_file(meta):
        raise UserError(f"dataset.labels={file} is the development kit's list, which numbers the classes in an order of its "
                        f"own: copy the kit's {META} beside it, or give lines like ILSVRC2012_val_00000001.JPEG 65")
    try:
        rows = np.atleast_1d(loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"])
        synsets = {str(row["WNID"]): int(row["ILSVRC2012_ID"]) for row in rows if int(row["num_children"]) == 0}
    except UNREADABLE as error:
        raise UserError(f"{meta} is no readable {META} of ImageNet's development kit: copy it again") from error
    return {synsets[name]: place for place, name in enumerate(sorted(synsets))}
