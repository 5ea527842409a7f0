"""The frozen models: BERT and kin, decoders of several families, heads, the key/value cache."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
