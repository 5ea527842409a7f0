"""LoRA adapters: made, put beside a model or into it, and merged with each other."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
