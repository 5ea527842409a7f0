"""Checkpoints of Hugging Face in and out, strictly: the name tables, the reader, the writer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
