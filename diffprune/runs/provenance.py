"""Where a number comes from: libraries, command, commit."""

import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

LIBRARIES = ("diffusers", "hydra-core", "numpy", "pytorch-fid", "pytorch-msssim", "scipy", "torch", "torch-fidelity",
             "torch-pruning")


def versions() -> dict[str, str]:
    """{library: version} of those that are installed."""
    installed = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def provenance() -> dict[str, str | None]:
    """The command that makes this run anywhere, and the commit of the source where it is a git checkout of its own."""
    checkout, commit = Path(__file__).parents[2], None
    if (checkout / ".git").exists():        # installed below another project's checkout, that one's commit says nothing
        with suppress(FileNotFoundError):   # no git on this machine
            git = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=checkout,
                                 capture_output=True, text=True)
            commit = git.stdout.strip() if git.returncode == 0 else None
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    wanted = [override for override in overrides if not override.startswith("paths.")]
    return {"command": " ".join(["python -m diffprune", *wanted]), "commit": commit}
