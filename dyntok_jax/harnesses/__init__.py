"""Decoders in lm-evaluation-harness and encoders in mteb, which need the extras `lm-eval` and `mteb`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
