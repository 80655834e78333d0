"""Where a number comes from: libraries, command, commit."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

LIBRARIES = ("diffusers", "hydra-core", "numpy", "pytorch-fid", "pytorch-msssim", "scipy", "torch", "torch-fidelity",
             "torch-pruning")


def versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in LIBRARIES}


def provenance() -> dict[str, str | None]:
    """The command that makes this run anywhere, and the commit of the source where it lies in a git checkout."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=Path(__file__).parent,
                             capture_output=True, text=True)
        commit = git.stdout.strip() if git.returncode == 0 else None
    except FileNotFoundError:       # no git on this machine
        commit = None
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    wanted = [override for override in overrides if not override.startswith("paths.")]
    return {"command": " ".join(["python -m diffprune", *wanted]), "commit": commit}
