"""Subwords to tokens: the merging algorithm on the device and on the host, its goals, learnt merge lists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
