"""Model folders in a zip archive, as some are published (the original repository's release is one)."""

import re
import zlib
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_folder

INDEX = "model_index.json"
OF_A_MODEL = re.compile(r".+\.(json|safetensors|bin|txt)")     # no code


def unpack(archive: Path, folder: Path) -> None:
    """Writes the model folder in a zip `archive` to `folder`, by rename; UserError where it holds none or several."""
    try:
        with ZipFile(archive) as content, atomic_folder(folder) as partial:
            names = [name for name in content.namelist() if is_of_a_model(name)]
            root = root_of(names, archive)
            for name in names:
                if root in PurePosixPath(name).parents:
                    file = partial / PurePosixPath(name).relative_to(root)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content.read(name))
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive} is no readable zip archive ({error}): fetch it again") from error


def is_of_a_model(name: str) -> bool:
    """Whether an entry of an archive is a file of a model folder, and lies below where it is unpacked."""
    path = PurePosixPath(name)
    return bool(OF_A_MODEL.fullmatch(path.name)) and not path.is_absolute() and ".." not in path.parts and (
        "__MACOSX" not in path.parts)


def root_of(names: list[str], archive: Path) -> PurePosixPath:
    """The folder of the only model among the files `names`."""
    roots = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == INDEX]
    if len(roots) != 1:
        raise UserError(f"{archive} holds {len(roots) or 'no'} model folder{'s' * (len(roots) > 1)} in diffusers' layout "
                        f"({INDEX}): unpack it, and give the folder of the model that is meant")
    return roots[0]
