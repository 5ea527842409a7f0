"""Tables and figures in the docs, written between marks from `experiments/results/*.json`.

    python -m experiments.shared.tables            list what differs, by file and mark; exit code 1 if anything
    python -m experiments.shared.tables --write    correct it

A table is between `<!-- table: NAME -->` and `<!-- end -->`; NAME is one of `TABLES` here, made by the `*_tables.py`
beside it. A figure in a sentence is between `<!-- FILE KEY FORMAT -->` and `<!-- -->`, not at the start of a line: the
value under KEY in `experiments/results/FILE.json`, formatted by Python's FORMAT (`.1f`, `,`; if omitted, unchanged).
A second.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.shared.compiled_tables import COMPILED_TABLES
from experiments.shared.decoder_tables import DECODER_TABLES
from experiments.shared.language_tables import LANGUAGE_TABLES
from experiments.shared.recorded import figures_of
from experiments.shared.speed_tables import SPEED_TABLES
from experiments.shared.task_tables import TASK_TABLES
from experiments.shared.vocabulary_tables import VOCABULARY_TABLES

TABLES = LANGUAGE_TABLES | TASK_TABLES | DECODER_TABLES | SPEED_TABLES | VOCABULARY_TABLES | COMPILED_TABLES
ROOT = Path(__file__).parent.parent.parent
RUN = "<!-- run -->"
"""Before the Python of docs that the tests run."""
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
FIGURE = re.compile(r"(?<!^)(<!-- (\w+) ([\w:-]+)(?: ([^\s<>-]+))? -->)([^<\n]*)(<!-- -->)", flags=re.MULTILINE)
"""Markdown treats a comment at the beginning of a line as a block of its own."""


@dataclass(frozen=True)
class Options:
    """Compares the tables and figures of the docs with the recorded ones.

    Attributes:
      write: correct what differs.
    """

    write: bool = False


def marked_files() -> list[Path]:
    """The Markdown files with marks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A Markdown text with everything between marks as the recorded results have it."""
    text = TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)
    return FIGURE.sub(lambda found: found[1] + format(figures_of(found[2])[found[3]], found[4] or "") + found[6], text)


def differences(text: str) -> list[str]:
    """The marks of a Markdown text whose content differs from the recorded results."""
    told = []
    for mark in (TABLE, FIGURE):
        pairs = zip(mark.finditer(text), mark.finditer(filled(text)), strict=True)
        told += [old[1].strip() for old, new in pairs if old[0] != new[0]]
    return told


def unknown_marks(text: str) -> list[str]:
    """Comments that are not valid marks: misspelt, without an end, or at the beginning of a line."""
    rest = FIGURE.sub("", TABLE.sub("", text)).replace(RUN, "")
    return re.findall(r"<!--.*?-->", rest)


def main(options: Options) -> int:
    """Reports or corrects what differs; returns the exit code."""
    status = 0
    for path in marked_files():
        text = path.read_text(encoding="utf-8")
        unknown, wrong = unknown_marks(text), differences(text)
        for mark in unknown:
            print(f"{path.relative_to(ROOT)}: {mark} is not a valid mark")
        for mark in wrong:
            print(f"{path.relative_to(ROOT)}: {mark} {'written' if options.write else 'differs'}")
        if options.write and wrong:
            path.write_text(filled(text), encoding="utf-8")
        if unknown or (wrong and not options.write):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
