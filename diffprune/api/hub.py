"""`diffprune.push_to_hub`: a model folder as a repository of the Hugging Face hub."""

from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from diffprune.api.folders import model_folder
from diffprune.api.held import mistakes_as_value_errors
from diffprune.models.model_folder import load_model
from diffprune.runtime.checksums import names_below
from diffprune.runtime.errors import UserError


@dataclass(frozen=True)
class Upload:
    """What is uploaded to `repository`: {file: its bytes} of the model `folder`; `done` says whether it was."""
    repository: str
    folder: Path
    files: dict[str, int] = field(repr=False)
    done: bool = False

    def __repr__(self) -> str:
        return (f"Upload({self.repository}, {len(self.files)} files of {sum(self.files.values()) / 1e6:.1f} MB from "
                f"{self.folder}, {'done' if self.done else 'nothing sent'})")


def push_to_hub(source: str | Path, repository: str, *, dry_run: bool = False, private: bool = False) -> Upload:
    """Uploads a model folder, or a run's final model with its card, to the hub's `repository` (`owner/name`), which is made
    where it does not exist; `private` then hides it. With `dry_run` nothing is sent and the hub is not asked.

    The folder is loaded before: a damaged one is a ValueError, as is a name that the hub does not take, and a hub that
    refuses.
    """
    with mistakes_as_value_errors():
        folder = model_folder(str(source))
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise UserError(f"{repository!r} cannot be the name of a repository: give owner/name") from error
        load_model(folder)
        files = {name: (folder / name).stat().st_size for name in sorted(names_below(folder))}
        if dry_run:
            return Upload(repository, folder, files)
        try:
            HfApi().create_repo(repository, private=private, exist_ok=True)
            HfApi().upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(files))
        except (HTTPError, OSError, ValueError) as error:
            raise UserError(f"{repository} cannot be written ({str(error).partition(chr(10))[0]}): log in with hf auth "
                            "login, or push the folder with the hub's own tools") from error
        return Upload(repository, folder, files, done=True)
