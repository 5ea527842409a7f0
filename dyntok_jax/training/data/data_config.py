"""What to train and validate on, and how it is divided into batches. Nothing here imports JAX."""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from dyntok_jax.errors import ConfigError
from dyntok_jax.options import Boundary, is_real, take_whole_numbers
from dyntok_jax.training.data.written_options import (
    EVERY,
    Count,
    Files,
    LanguageWeights,
    Number,
    Sources,
    Text,
    Unlisted,
    WordsShare,
)

ShareKind = Literal["uniform", "gaussian", "fixed"]
PieceMode = Literal["decompose", "identity"]

WORDS_SHARE = 0.5
"""The default share of pseudo-texts in a language's samples."""

_LEAST = {
    "batch_size": 1,
    "max_length": 1,
    "max_subwords": 1,
    "threads": 0,
    "prefetch": 1,
    "pieces_per_batch": 0,
    "identity_batches": 0,
    "held_out": 0,
    "validation_texts": 1,
    "seed": 0,
}
_PROBABILITIES = ("full_probability", "mask_probability", "pieces_random")
_NOT_NEGATIVE = ("share_spread", "language_exponent", "words_exponent")
_CHOICES: dict[str, Any] = {"boundary": Boundary, "share": ShareKind, "pieces": PieceMode}
_NOT_DECISIVE = ("text", "words", "validation", "validation_texts", "threads", "prefetch")


@dataclass(frozen=True)
class DataConfig:
    """What to train and validate on.

    >>> DataConfig({"de": ("de.txt",)}, language_weights={"de": 2.0}).weight_of("de")
    2.0

    Attributes:
      text: UTF-8 text, one paragraph a line (.gz too), JSON lines, parquet or data sets, as FILE or CODE=FILE; without
        a code the file's name may say the language (de.txt.gz).
      words: lists of words for pseudo-texts in languages with little text, as CODE=FILE (a word a line, a tab, its
        weight) or CODE=wordfreq:CODE.
      words_share: the share of pseudo-texts in the samples of a language that has texts, too: a number for all, or
        CODE=NUMBER for one (default: 0.5). It does not change how often the language is drawn.
      validation: held-out text, one text a line, as FILE or CODE=FILE; or aligned JSON lines (.jsonl) with a field a
        language.
      validation_texts: the most texts of each validation file or of each language in it.
      held_out: without validation files, paragraphs of each language held out of training for validation; 0: no
        validation.
      batch_size: B, texts a batch.
      max_length: the longest text, in subwords, special tokens and prefix included; longer ones are split.
      max_subwords: S, the longest token, in subwords.
      boundary: what merging may not cross.
      share: how each batch's share of the maximum reduction is drawn.
      share_mean: in percent, the mean of gaussian or the share of fixed.
      share_spread: in percent, the standard deviation of gaussian.
      full_probability: how often the share is exactly 100 %, whatever the distribution.
      language_exponent: languages are drawn in proportion to their number of texts to this power: 1 draws all texts
        equally often, 0 all languages equally often.
      language_weights: how many times as often a language is drawn, as CODE=NUMBER.
      prefix: put before each text (default: what the model expects).
      pieces_per_batch: P, vocabulary pieces a batch, for the objective pieces.
      pieces: decompose writes them as shorter pieces, identity as themselves (ZeTT's auxiliary loss).
      seed: of parameters and data.
      mask_probability: the share of a text's tokens that a masked-LM objective hides.
      predict_all: predict single subwords too, as the paper does.
      words_exponent: a word is drawn in proportion to its weight to this power.
      pieces_random: the share of decomposed pieces that are split at random instead of by the tokenizer.
      identity_batches: first batches that hold pieces as themselves alone: ZeTT's warm-up.
      threads: that prepare batches during the step; 0 prepares each when it is needed.
      prefetch: the most batches prepared ahead.
    """

    text: Sources = field(default_factory=dict)
    words: Sources = field(default_factory=dict)
    words_share: WordsShare = field(default_factory=dict)
    validation: Files = ()
    validation_texts: Count = 240
    held_out: Count = 32
    batch_size: Count = 24
    max_length: Count = 96
    max_subwords: Count = 7
    boundary: Boundary = "pretoken"
    share: ShareKind = "uniform"
    share_mean: Number = 50.0
    share_spread: Number = 25.0
    full_probability: Number = 0.25
    language_exponent: Number = 0.3
    language_weights: LanguageWeights = field(default_factory=dict)
    prefix: Text = None
    pieces_per_batch: Count = 128
    pieces: PieceMode = "decompose"
    seed: Count = 0
    mask_probability: Unlisted[float] = 0.0
    predict_all: Unlisted[bool] = False
    words_exponent: Unlisted[float] = 0.7
    pieces_random: Unlisted[float] = 0.5
    identity_batches: Unlisted[int] = 0
    threads: Unlisted[int] = 1
    prefetch: Unlisted[int] = 4

    def __post_init__(self):
        take_whole_numbers(self, _LEAST, ConfigError)
        for name in ("share_mean", *_PROBABILITIES, *_NOT_NEGATIVE):
            _check(name, value := getattr(self, name), is_real(value), "a number")
        _check("share_mean", self.share_mean, 0 <= self.share_mean <= 100, "a percentage, from 0 to 100")
        for name in _PROBABILITIES:
            _check(name, value := getattr(self, name), 0 <= value <= 1, "a probability, from 0 to 1")
        for name in _NOT_NEGATIVE:
            _check(name, value := getattr(self, name), 0 <= value < math.inf, "a number that is not negative")
        for name, choices in _CHOICES.items():
            value, known = getattr(self, name), get_args(choices)
            _check(name, repr(value), value in known, f"one of {', '.join(known)}")
        for code, share in self.words_share.items():
            _check(_of("words_share", code), share, 0 <= share <= 1, "a part of the samples, from 0 to 1")
        for code, weight in self.language_weights.items():
            _check(_of("language_weights", code), weight, 0 < weight < math.inf, "a positive number")
        _check_codes("words_share", self.words_share, self.words, "there are no words in")
        _check_codes("language_weights", self.language_weights, {**self.text, **self.words}, "nothing is in")
        if self.identity_batches and not self.pieces_per_batch:
            raise ConfigError("identity_batches are batches of pieces, and pieces_per_batch is 0: set it, too.")
        self._check_sources()

    def _check_sources(self) -> None:
        """Raises ConfigError if there is nothing to read, or if sources are a string instead of a tuple."""
        if not (self.text or self.words or self.pieces_per_batch):
            raise ConfigError(
                "There is nothing to train on: give at least one language and its text files, lists of words, or "
                "pieces_per_batch."
            )
        for code, sources in (*self.text.items(), *self.words.items()):
            if isinstance(sources, str):
                raise ConfigError(f"The sources of {code} are one string, {sources!r}: put it in a tuple.")

    def words_share_of(self, code: str) -> float:
        """The share of pseudo-texts in the samples of a language that has texts, too."""
        return self.words_share.get(code, self.words_share.get(EVERY, WORDS_SHARE))

    def weight_of(self, code: str) -> float:
        """How many times as often a language is drawn as by its number of texts."""
        return self.language_weights.get(code, self.language_weights.get(EVERY, 1.0))

    def decisive(self) -> dict[str, Any]:
        """The options that change the batches, without the names of files: the stream records their contents."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}


def _check(name: str, value: object, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise ConfigError(f"{name} must be {wanted}, got {value}.")


def _of(name: str, code: str) -> str:
    return name if code == EVERY else f"{name} of {code}"


def _check_codes(name: str, given: Collection[str], known: Collection[str], reason: str) -> None:
    if unknown := sorted({*given} - {*known, EVERY}):
        there = " ".join(known) or "none"
        raise ConfigError(f"{name} names {', '.join(unknown)}, but {reason} that language; there are {there}.")
