"""Recorded figures, and Markdown tables of them."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
SHARES = (0, 25, 50, 75, 100)
METHODS = {"fvt": "FVT", "hypernet": "hypernetwork"}
Figures = dict[str, Any]


@cache
def figures_of(name: str) -> Figures:
    """The figures of `experiments/results/NAME.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with its numbers to the right."""
    ruler = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ruler, *rows])
