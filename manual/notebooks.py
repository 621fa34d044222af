"""A notebook as a page of Markdown: its prose, its code, and where the notebook itself is."""

from __future__ import annotations

import json
from pathlib import Path


def page(path: Path) -> str:
    """The page of one notebook. Outputs are not shown: the notebooks are stored without them."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        if len(parts) == 1:
            parts.append(f"Run it yourself: [the notebook]({path.name}), or `jupyter lab examples/{path.name}`.")
    return "\n\n".join(parts) + "\n"
