"""A folder's public names for the API reference: those that its `__init__.pyi` lists, as its lazy `__init__` does."""

import griffe


class LazyFolders(griffe.Extension):
    """Exports of packages whose `__all__` is made when they are imported, which reading the source cannot see."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Gives the package and all folders in it their exports."""
        for module in [pkg, *_modules(pkg)]:
            if module.is_init_module and module.exports is None and "lazy_loader" in module.imports:
                public = {name: path for name, path in module.imports.items() if name != "lazy_loader"}
                module.exports = list(public)
                for path in public.values():
                    _show(pkg, path.removeprefix(f"{pkg.path}."))


def _modules(module: griffe.Module) -> list[griffe.Module]:
    inner = [member for member in module.modules.values() if not member.is_alias]
    return inner + [deeper for member in inner for deeper in _modules(member)]


def _show(pkg: griffe.Module, path: str) -> None:
    """A constant without a docstring is shown with its value, where it would be left out."""
    folder, name = path.rsplit(".", 1)
    if name not in pkg[folder].members:  # of `A, B = 0, 1` nothing is seen
        return
    public = pkg[path]
    if public.is_attribute and not public.has_docstring:
        public.docstring = griffe.Docstring("", parent=public)
