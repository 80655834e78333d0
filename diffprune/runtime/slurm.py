"""The cluster at hand: what it wants of every job (`slurm/site.sh`, or the file that `DIFFPRUNE_SITE` names), its queue."""

import os
import subprocess
from pathlib import Path

from diffprune.runtime.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "slurm"


def sbatch_options() -> dict[str, str | bool]:
    """{"partition": "gpu", "exclusive": True, …} from the site file's list `sbatch_options`; UserError where that fails."""
    file = Path(os.environ.get("DIFFPRUNE_SITE", SCRIPTS / "site.sh"))
    done = subprocess.run(["bash", "-c", 'source "$0" && printf "%s\\n" "${sbatch_options[@]}"', str(file)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the site file {file} does not do: {done.stderr.strip() or done.stdout.strip()}")
    words = done.stdout.split("\n")[:-1]
    wrong = [word for word in words if word and not word.startswith("--")]
    if wrong:
        raise UserError(f"{wrong[0]} in sbatch_options of {file}: write options in their long form, --name=value")
    pairs = [word[2:].partition("=") for word in words if word]
    return {name: value if equals else True for name, equals, value in pairs}


def queue() -> dict[str, str] | None:
    """{number: command} of one's jobs that wait, run or end, array tasks one by one; None while Slurm does not answer."""
    try:
        asked = subprocess.run(["squeue", "--me", "--noheader", "--array", "--format=%i %o"], capture_output=True, text=True,
                               check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {number: command for number, _, command in (line.partition(" ") for line in asked.stdout.splitlines())}
