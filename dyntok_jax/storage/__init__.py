"""Files and folders that are whole under their name or not there: the one way that everything here writes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
