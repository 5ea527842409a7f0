"""Dynamic tokenization for trained language models, in JAX.

The steps are pure functions that can be imported, jitted, sharded and differentiated alone; `DynamicEncoder` and
`DynamicDecoder` hold parameters and call them in order.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyntok_jax.decoder import DynamicDecoder
    from dyntok_jax.encoded import EncodedTexts, Timings
    from dyntok_jax.encoder import DynamicEncoder
    from dyntok_jax.errors import DyntokError
    from dyntok_jax.generated import Choice, GeneratedText, ScoredText
    from dyntok_jax.generation.sampling import SamplingConfig
    from dyntok_jax.merging import Budget, MergeList, Merges, Share, learn_merges, load_merges
    from dyntok_jax.tokens import TextTokens

__all__ = [
    "Budget",
    "Choice",
    "DynamicDecoder",
    "DynamicEncoder",
    "DyntokError",
    "EncodedTexts",
    "GeneratedText",
    "MergeList",
    "Merges",
    "SamplingConfig",
    "ScoredText",
    "Share",
    "TextTokens",
    "Timings",
    "learn_merges",
    "load_merges",
]

_MODULES = {
    "decoder": ("DynamicDecoder",),
    "encoded": ("EncodedTexts", "Timings"),
    "encoder": ("DynamicEncoder",),
    "errors": ("DyntokError",),
    "generated": ("Choice", "GeneratedText", "ScoredText"),
    "generation.sampling": ("SamplingConfig",),
    "merging": ("Budget", "MergeList", "Merges", "Share", "learn_merges", "load_merges"),
    "tokens": ("TextTokens",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    # JAX takes seconds to import, and `dyntok --help` needs none of it: a public name is looked up when first asked for
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
