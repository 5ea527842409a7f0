"""Texts to subwords: byte-level tokenizers, boundaries, batches, chats, files of lines. No JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
