"""Tasks with labels: pairs, texts and entities, read from files, trained with dynamic tokenization, and scored."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
