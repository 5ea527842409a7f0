"""Dynamic tokenization for trained language models, in JAX.

The steps are pure functions that can be imported, jitted, sharded and differentiated alone; `DynamicEncoder` holds
parameters and calls them in order.
"""

from dyntok_jax.encoded import EncodedTexts, TextTokens, Timings
from dyntok_jax.encoder import DynamicEncoder
from dyntok_jax.errors import DyntokError
from dyntok_jax.merging import Budget, MergeList, Merges, Share, learn_merges, load_merges

__all__ = [
    "Budget",
    "DynamicEncoder",
    "DyntokError",
    "EncodedTexts",
    "MergeList",
    "Merges",
    "Share",
    "TextTokens",
    "Timings",
    "learn_merges",
    "load_merges",
]
