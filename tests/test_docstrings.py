"""Every public function and class shows how it is used: an example in its docstring, which runs as a doctest."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dyntok_jax"
NO_EXAMPLES = {"cli", "kernels"}
"""Folders of commands, whose examples are in their help, and of compiled loops, which their callers show."""
FOLDERS = sorted(
    str(stub.parent.relative_to(PACKAGE))
    for stub in PACKAGE.glob("*/**/__init__.pyi")
    if stub.relative_to(PACKAGE).parts[0] not in NO_EXAMPLES
)
MODULES = sorted(path.stem for path in [*PACKAGE.glob("[!_]*.py"), PACKAGE / "assets"])


def definitions(path: Path) -> dict[str, ast.AST]:
    """The functions and classes of a module, by name."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def handed_on(folder: Path) -> dict[str, ast.AST]:
    """The functions and classes that a folder's stub hands on from its modules."""
    found = {}
    for node in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            module = folder / f"{node.module}.py"
            defined = definitions(module) if module.is_file() else handed_on(folder / node.module)
            found |= {alias.name: defined[alias.name] for alias in node.names if alias.name in defined}
    return found


def is_kind_of_error(node: ast.AST) -> bool:
    """Whether it is an error class that only names a kind of `DyntokError`, whose example serves for all."""
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "DyntokError" for base in node.bases)


def without_example(public: dict[str, ast.AST]) -> set[str]:
    return {
        name
        for name, node in public.items()
        if ">>>" not in (ast.get_docstring(node) or "") and not is_kind_of_error(node)
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_public_name_of_a_folder_has_an_example(folder):
    public = handed_on(PACKAGE / folder)
    assert public
    assert without_example(public) == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_a_module_has_an_example(module):
    path = PACKAGE / f"{module}.py"
    public = definitions(path if path.is_file() else PACKAGE / module / "__init__.py")
    public = {name: node for name, node in public.items() if not name.startswith("_")}
    assert public
    assert without_example(public) == set()
