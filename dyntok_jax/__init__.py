"""Dynamic tokenization for trained language models, in JAX.

The steps are pure functions that can be imported, jitted, sharded and differentiated alone; `DynamicEncoder` and
`DynamicDecoder` hold parameters and call them in order.
"""

import lazy_loader

__version__ = "0.1.0"
"""The one place that says it: the package's metadata is built from here."""

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
