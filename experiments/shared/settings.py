"""Rival tokenizations and how they are loaded: static, FVT and hypernetwork, at shares of the maximum reduction."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyntok_jax import DynamicEncoder, EncodedTexts, Merges, Merging, Share
from dyntok_jax.embedding import TokenEmbedder
from dyntok_jax.options import Boundary, Goal

STATIC = "static"
SPACELESS = frozenset("th zh ja lo km my bo dz Thai Hans Hant Jpan Laoo Khmr Mymr Tibt".split())
"""Languages and scripts written without spaces, where a pretoken is a phrase: not part of means."""


@dataclass(frozen=True)
class Setting:
    """A method, and how far it merges: to a share of the maximum reduction, or by a number of merges a batch."""

    method: str
    share: float | None = None
    merges: int | None = None

    @property
    def name(self) -> str:
        if self.merges is not None:
            return f"{self.method}_merges{self.merges}"
        return self.method if self.share is None else f"{self.method}_share{self.share:g}"

    @property
    def goal(self) -> Goal | None:
        """What merging stops at; None for static tokenization."""
        if self.merges is not None:
            return Merges(self.merges)
        return None if self.share is None else Share(self.share)


UNMERGED = Setting(STATIC)


class EncodingOptions(Protocol):
    """The options that say how texts are encoded in any setting."""

    @property
    def boundary(self) -> Boundary: ...

    @property
    def max_subwords(self) -> int | None: ...

    @property
    def prefix(self) -> str: ...


Encode = Callable[[Setting, str, Sequence[str]], EncodedTexts]
"""From a setting, a language and its texts to what the model makes of them."""


def all_settings(methods: Sequence[str], shares: Sequence[float]) -> list[Setting]:
    """Static first, then each method at each share."""
    return [UNMERGED, *(Setting(method, share) for method in methods for share in shares)]


def by_method(settings: Sequence[Setting]) -> Iterator[tuple[str, list[Setting]]]:
    """The settings of each method that merges."""
    for method in dict.fromkeys(setting.method for setting in settings if setting.goal is not None):
        yield method, [setting for setting in settings if setting.method == method]


def encoders_by_method(model: str, hypernet: str | None) -> dict[str, DynamicEncoder]:
    """The methods, in the order of the table; they share the model's parameters."""
    return with_fvt(DynamicEncoder.load(model, hypernet))


def with_fvt(encoder: DynamicEncoder) -> dict[str, DynamicEncoder]:
    """An encoder that has a hypernetwork, and before it the same without; or, if it has none, itself as FVT."""
    if encoder.cache is None:
        return {"fvt": encoder}
    fvt = TokenEmbedder(encoder.tokenizer, encoder.encoder.word_embeddings[...])
    return {"fvt": DynamicEncoder(encoder.config, encoder.encoder, fvt, prefix=encoder.prefix), "hypernet": encoder}


def encode_in_settings(
    encoders: dict[str, DynamicEncoder], options: EncodingOptions, on_progress: Callable[[int], None]
) -> Encode:
    """The function that encodes texts in a setting; `on_progress` gets the number of texts of each batch."""

    def encode(setting: Setting, language: str, texts: Sequence[str]) -> EncodedTexts:
        encoder = encoders.get(setting.method) or next(iter(encoders.values()))
        return encoder.encode(
            texts,
            merging=Merging(
                setting.goal,
                boundary=options.boundary,
                max_subwords=options.max_subwords,
            ),
            prefix=options.prefix,
            language=language if encoder.embedder.languages and setting.goal is not None else None,
            on_progress=on_progress,
        )

    return encode


def pooled(encoded: EncodedTexts) -> Float32[np.ndarray, "N D"]:
    """The embeddings, which exist because pooling is the default."""
    assert encoded.embeddings_ND is not None
    return encoded.embeddings_ND


@contextmanager
def progress_bar(title: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Shows a bar that the function it gives moves on by a number of texts."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda count: bars.advance(bar, count)


def spaced(languages: Sequence[str]) -> list[str]:
    """The languages that means are taken over; a script may follow the language (`tha_Thai`)."""
    return [language for language in languages if SPACELESS.isdisjoint(language.split("_")) and language != "en"]


def mean_of(scores: Mapping[tuple[Setting, str], Any], setting: Setting, languages: Sequence[str], name: str) -> float:
    """The mean of one attribute of the languages' scores."""
    return float(np.mean([getattr(scores[setting, language], name) for language in languages]))


def loss(
    scores: Mapping[tuple[Setting, str], Any], setting: Setting, languages: Sequence[str], name: str = "accuracy"
) -> float:
    """The static score − that of a setting, in points, the mean of the languages."""
    return mean_of(scores, UNMERGED, languages, name) - mean_of(scores, setting, languages, name)
