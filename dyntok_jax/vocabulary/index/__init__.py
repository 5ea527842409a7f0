"""The approximate index over the rows of a large vocabulary: built, searched, kept on disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
