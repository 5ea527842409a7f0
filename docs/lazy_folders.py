"""A folder's public names for the API reference: those that its `__init__.pyi` lists, as its lazy `__init__` does."""

import griffe


class LazyFolders(griffe.Extension):
    """Exports of packages whose `__all__` is made when they are imported, which reading the source cannot see."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Gives the package and all folders in it their exports."""
        for module in [pkg, *_modules(pkg)]:
            if module.is_init_module and module.exports is None and "lazy_loader" in module.imports:
                module.exports = [name for name in module.imports if name != "lazy_loader"]


def _modules(module: griffe.Module) -> list[griffe.Module]:
    inner = [member for member in module.modules.values() if not member.is_alias]
    return inner + [deeper for member in inner for deeper in _modules(member)]
