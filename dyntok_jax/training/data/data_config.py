"""What to train on, and how it is cut in batches."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dyntok_jax.errors import ConfigError
from dyntok_jax.options import Boundary
from dyntok_jax.training.data.pieces import PieceMode

ShareKind = Literal["uniform", "gaussian", "fixed"]

_LEAST = {
    "batch_size": 1,
    "max_length": 1,
    "max_subwords": 1,
    "threads": 0,
    "prefetch": 1,
    "pieces_per_batch": 0,
    "identity_batches": 0,
    "held_out": 0,
    "seed": 0,
}
_PROBABILITIES = ("full_probability", "mask_probability", "pieces_random")
_NOT_NEGATIVE = ("share_spread", "language_exponent", "words_exponent")
_CHOICES: dict[str, Any] = {"boundary": Boundary, "share": ShareKind, "pieces": PieceMode}


@dataclass(frozen=True)
class DataConfig:
    """What to train on and how it is cut in batches.

    Attributes:
      texts: language code → plain text, JSON lines, parquet, data sets; how they are written says `sources.py`.
      batch_size: B, texts a batch.
      max_length: the most subwords a text, special tokens and prefix included; longer texts are cut in several.
      max_subwords: S, the most subwords a token.
      boundary: what merging may not cross.
      share: how each batch's share of the maximum reduction is drawn: uniform from 0 to 100 %, Gaussian, or fixed.
      share_mean: in %, of a Gaussian; or the fixed share.
      share_spread: in %, the standard deviation of a Gaussian.
      full_probability: how often the share is exactly 100 %, whatever else is drawn.
      language_exponent: a language is drawn in proportion to its number of texts to this power: 1 takes texts as they
        come, 0 all languages alike.
      language_weights: language code → how many times as often as that it is drawn, 1 where not given.
      prefix: what the model expects before a text (`query: `).
      mask_probability: how many of the text's tokens a masked-LM objective hides.
      predict_all: predict single subwords too, as the paper does.
      seed: of everything drawn.
      threads: prepare batches beside the step; 0 prepares each when it is asked for.
      prefetch: the most batches prepared ahead.
      words: language code → lists of words to make pseudo-texts of: files of `word<TAB>weight`, or `wordfreq:ar`.
      words_share: language code → what part of the language's samples are pseudo-texts, 0.5 where not given; of a
        language without texts all are. They do not change how often the language is drawn.
      words_exponent: a word is drawn in proportion to its weight to this power.
      pieces_per_batch: P, vocabulary pieces a batch; without texts and words a batch has nothing else.
      pieces: `decompose` writes them as shorter pieces, `identity` as themselves (ZeTT's warm-up and auxiliary loss).
      pieces_random: how many of the decomposed are written in any way instead of the tokenizer's.
      identity_batches: how many batches at first hold nothing but pieces as themselves: ZeTT's warm-up.
      held_out: paragraphs of each language that are kept for `validation_texts`.
    """

    texts: dict[str, tuple[str, ...]]
    batch_size: int = 24
    max_length: int = 96
    max_subwords: int = 7
    boundary: Boundary = "pretoken"
    share: ShareKind = "uniform"
    share_mean: float = 50.0
    share_spread: float = 25.0
    full_probability: float = 0.25
    language_exponent: float = 0.3
    language_weights: dict[str, float] = field(default_factory=dict)
    prefix: str = ""
    mask_probability: float = 0.0
    predict_all: bool = False
    seed: int = 0
    threads: int = 1
    prefetch: int = 4
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    words_share: dict[str, float] = field(default_factory=dict)
    words_exponent: float = 0.7
    pieces_per_batch: int = 0
    pieces: PieceMode = "decompose"
    pieces_random: float = 0.5
    identity_batches: int = 0
    held_out: int = 0

    def __post_init__(self):
        for name, least in _LEAST.items():
            _check(name, value := getattr(self, name), value >= least, f"at least {least}")
        _check("share_mean", self.share_mean, 0 <= self.share_mean <= 100, "a percentage, from 0 to 100")
        for name in _PROBABILITIES:
            _check(name, value := getattr(self, name), 0 <= value <= 1, "a probability, from 0 to 1")
        for name in _NOT_NEGATIVE:
            _check(name, value := getattr(self, name), 0 <= value < math.inf, "a number that is not negative")
        for name, choices in _CHOICES.items():
            value, known = getattr(self, name), get_args(choices)
            _check(name, repr(value), value in known, f"one of {', '.join(known)}")
        for code, share in self.words_share.items():
            _check(f"words_share of {code}", share, 0 <= share <= 1, "a part of the samples, from 0 to 1")
        for code, weight in self.language_weights.items():
            _check(f"language_weights of {code}", weight, 0 < weight < math.inf, "a positive number")
        if self.identity_batches and not self.pieces_per_batch:
            raise ConfigError("identity_batches are batches of pieces: set pieces_per_batch, too.")
        if unknown := sorted(self.words_share.keys() - self.words.keys()):
            raise ConfigError(f"words_share names {', '.join(unknown)}, but words has no list of words there.")
        if unknown := sorted(self.language_weights.keys() - {*self.texts, *self.words}):
            raise ConfigError(f"language_weights names {', '.join(unknown)}, but nothing there is in that language.")
        self._check_sources()

    def _check_sources(self) -> None:
        """There must be something to read, and a list of words must not be hidden behind a string."""
        if not (self.texts or self.words or self.pieces_per_batch):
            raise ConfigError(
                "There is nothing to train on: give at least one language and its text files, lists of words, or "
                "pieces_per_batch."
            )
        for code, sources in (*self.texts.items(), *self.words.items()):
            if isinstance(sources, str):
                raise ConfigError(f"The sources of {code} are one string, {sources!r}: put it in a tuple.")


def _check(name: str, value: object, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise ConfigError(f"{name} is {value}: it must be {wanted}.")
