"""Folders are imported by their public names; and what counts long signatures counts them right."""

from pathlib import Path

import pytest

from tests.support.inner_imports import inner_imports
from tests.support.long_signatures import long_signatures


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_no_file_imports_an_inner_file_of_another_folder():
    assert list(map(str, inner_imports())) == []


@pytest.mark.parametrize(
    ("file", "line", "module"),
    [
        ("p/b/user.py", "from p.a.inner import name", "p.a.inner"),
        ("p/b/user.py", "import p.a.inner", "p.a.inner"),
        ("p/b/user.py", "from p.a import inner", "p.a.inner"),
        ("p/b/user.py", "from ..a.inner import name", "p.a.inner"),
        ("p/b/user.py", "def late():\n    from p.a.sub.deep import name", "p.a.sub.deep"),
        ("p/a/user.py", "from p.a.sub.deep import name", "p.a.sub.deep"),
        ("p/user.py", "from p.a.inner import name", "p.a.inner"),
        ("p/b/user.py", "from p.a import name", None),
        ("p/b/user.py", "from p.a.sub import name", None),
        ("p/b/user.py", "from p.root import name", None),
        ("p/b/user.py", "from p import root", None),
        ("p/a/user.py", "from p.a.inner import name", None),
        ("p/a/sub/user.py", "from p.a.inner import name", None),
        ("p/b/user.py", "import numpy.linalg", None),
    ],
)
def test_an_inner_import_is_found_however_it_is_written(tmp_path, file, line, module):
    files = dict.fromkeys(["p/__init__.py", "p/root.py", "p/a/__init__.py", "p/a/inner.py", "p/b/__init__.py"], "")
    files |= dict.fromkeys(["p/a/sub/__init__.py", "p/a/sub/deep.py"], "") | {file: line}
    found = inner_imports(written(tmp_path, files), ("p",))
    assert [(str(one.path), one.module) for one in found] == ([(file, module)] if module else [])


def test_parameters_are_counted_without_a_method_s_own_object(tmp_path):
    text = """
class C:
    def method(self, a, b): ...
    @classmethod
    def of_class(cls, a, /, *, b, c): ...
    @staticmethod
    def static(a, b, *c, **d): ...
def function(a, b):
    def inner(a, b, c): ...
"""
    found = long_signatures(written(tmp_path, {"p/file.py": text}), ("p",), most=2)
    assert [(one.name, one.n_parameters) for one in found] == [("C.of_class", 3), ("C.static", 4), ("inner", 3)]
