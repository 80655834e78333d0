"""Generated parts of a Markdown file: what lies between `<!-- NAME -->` and `<!-- end -->`."""

import re


def replaced(text: str, name: str, content: str) -> str:
    """`text` with the block `name` made anew; raises ValueError when it has none."""
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not block.search(text):
        raise ValueError(f"there is no block {name!r}")
    return block.sub(lambda found: f"{found[1]}{content.rstrip()}\n{found[2]}", text)
