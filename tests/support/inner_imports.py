"""Imports of an inner file of another folder: `python -m tests.support.inner_imports` prints each and their number.

A folder's `__init__` lists what others may use. A file is inner to all that lies outside its folder; folders within
folders count as folders of their own, and files in the root of a package are nobody's inner files.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("dyntok_jax", "experiments", "tpu")


class InnerImport(NamedTuple):
    """A line that imports what lies inside of another folder."""

    path: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line}: {self.module}"


def inner_imports(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> list[InnerImport]:
    """All of them, by path and line.

    Args:
      root: the folder that holds the packages.
      packages: names of top-level packages, which are read and whose files must not be reached into.
    """
    found = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            inside = path.relative_to(root)
            for line, module in _imported(ast.parse(path.read_text(encoding="utf-8")), inside.parent.parts):
                for name in _files(root, module):
                    folder = name[:-1]
                    if name[0] in packages and len(folder) > 1 and inside.parts[: len(folder)] != folder:
                        found.append(InnerImport(inside, line, ".".join(name)))
    return sorted(set(found))


def _imported(tree: ast.Module, folder: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module or name of a module that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def _files(root: Path, dotted: str) -> Iterator[tuple[str, ...]]:
    """The module that a dotted name leads to, as its parts, where it is a file and no folder's `__init__`."""
    parts = tuple(dotted.split("."))
    for size in range(len(parts), 0, -1):
        if root.joinpath(*parts[:size]).with_suffix(".py").is_file():
            yield parts[:size]
            return


def main() -> int:
    """Prints them; 1 where there are any."""
    found = inner_imports()
    for one in found:
        print(one)
    print(f"{len(found)} imports of an inner file of another folder")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
