"""Functions of more than 8 parameters: `python -m tests.support.long_signatures` prints each and their number."""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.inner_imports import PACKAGES, ROOT

MOST = 8


class LongSignature(NamedTuple):
    """A function and how many parameters it has."""

    path: Path
    line: int
    name: str
    n_parameters: int

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line}: {self.name} has {self.n_parameters} parameters"


def long_signatures(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES, most: int = MOST) -> list[LongSignature]:
    """All of them, by path and line; a method's own object is not counted.

    Args:
      root: the folder that holds the packages.
      packages: names of top-level packages.
      most: parameters that a function may have.
    """
    found = []
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owner = {function: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for function in node.body}
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_static = any(isinstance(name, ast.Name) and name.id == "staticmethod" for name in node.decorator_list)
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
            count = len(named) - (node in owner and not is_static)
            if count > most:
                name = f"{owner[node].name}.{node.name}" if node in owner else node.name
                found.append(LongSignature(path.relative_to(root), node.lineno, name, count))
    return sorted(found)


def main() -> int:
    """Prints them; 1 where there are any."""
    found = long_signatures()
    for one in found:
        print(one)
    print(f"{len(found)} functions of more than {MOST} parameters")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
