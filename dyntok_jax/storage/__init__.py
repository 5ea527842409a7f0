"""Atomic writing: a file or folder appears under its name complete, or not at all. Everything here writes this way."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
