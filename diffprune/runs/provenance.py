"""Where a number comes from: libraries, command, commit."""

import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from diffprune.runs.run import Run
from diffprune.runtime.addresses import without_secrets
from diffprune.runtime.files import read_json, write_json

LIBRARIES = ("diffusers", "hydra-core", "numpy", "pytorch-fid", "pytorch-msssim", "scipy", "torch", "torch-fidelity",
             "torch-pruning")


def versions() -> dict[str, str]:
    """{name: version} of Python and of the libraries that numbers depend on."""
    return {"python": sys.version.split()[0]} | installed_versions(LIBRARIES)


def installed_versions(libraries: Iterable[str]) -> dict[str, str]:
    """{library: version} of those `libraries` that are installed."""
    installed = {}
    for name in libraries:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


@cache
def commit() -> str | None:
    """The commit of the source where it is a git checkout of its own."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():    # installed below another project's checkout, that one's commit says nothing
        return None
    try:
        git = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=checkout, capture_output=True,
                             text=True)
        return git.stdout.strip() if git.returncode == 0 else None
    except FileNotFoundError:       # no git on this machine
        return None


def note_commit(run: Run, stage: str) -> None:
    """Adds the commit to those under which the `stage` of the run was done, in provenance.json; several resumed it."""
    done = commits(run)
    if commit() not in [None, *done.get(stage, [])[-1:]]:
        write_json(run.provenance, done | {stage: [*done.get(stage, []), commit()]}, checksum=True)


def commits(run: Run) -> dict[str, list[str]]:
    """{stage: the commits under which it was done, in order}."""
    return read_json(run.provenance) if run.provenance.exists() else {}


def provenance() -> dict[str, str | None]:
    """The command that makes this run anywhere, and the commit of the source."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    wanted = [override for override in overrides if not override.startswith("paths.")]
    return {"command": without_secrets(" ".join(["python -m diffprune", *wanted])), "commit": commit()}
