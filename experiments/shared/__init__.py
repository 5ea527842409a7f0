"""What several experiments share: how a script ends, and rivals on the clock in turns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
