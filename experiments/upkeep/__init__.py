"""Commands that remake what the project keeps: README, pages, kept results."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "results"


def replaced(text: str, name: str, content: str) -> str:
    """Replaces the block `name` of a Markdown `text`, which lies between `<!-- NAME -->` and `<!-- end -->`. Raises
    ValueError when there is none."""
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not block.search(text):
        raise ValueError(f"there is no block {name!r}")
    return block.sub(lambda match: f"{match[1]}{content.rstrip()}\n{match[2]}", text)
