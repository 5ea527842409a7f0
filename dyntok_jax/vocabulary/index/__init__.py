"""The approximate index over the rows of a large vocabulary: building, search, storage."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
