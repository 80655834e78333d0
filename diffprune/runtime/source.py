"""Whether a job runs the code that it was submitted with."""

import hashlib
import os
from pathlib import Path

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import shipped_folder

SUBMITTED = "DIFFPRUNE_SOURCE"      # in a job's environment: `source_key` when it was submitted
PACKAGE = Path(__file__).parents[1]


def source_key(package: Path = PACKAGE, conf: Path | None = None) -> str:
    """12 hex digits of the SHA-256 of the package's modules and configurations, by name and content."""
    digest = hashlib.sha256()
    for folder, pattern in ((package, "*.py"), (conf or shipped_folder("conf"), "*.yaml")):
        for file in sorted(folder.rglob(pattern)):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def check_source() -> None:
    """Raises UserError in a job that was submitted with other code than there is now."""
    if os.environ.get(SUBMITTED, own := source_key()) != own:
        raise UserError(f"the code in {PACKAGE} has changed since this job was submitted: submit the run again, which goes "
                        "on from what is kept, or bring the former code back")
