"""Aligned texts encoded in several settings, and each language's scores against English."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float32

from dyntok_jax import EncodedTexts
from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError
from dyntok_jax.text import read_aligned
from experiments.shared.settings import STATIC, Encode, Setting, pooled

Texts = dict[str, list]
"""Language → one text a paragraph, None where there is none."""
Rows = dict[str, np.ndarray]
"""Language → which paragraphs have a text in it and in English."""


class PairOptions(Protocol):
    """The options that choose languages and pairs."""

    @property
    def languages(self) -> Sequence[str]: ...

    @property
    def limit(self) -> int | None: ...


@dataclass(frozen=True)
class Score:
    """Results of one language in one setting.

    Attributes:
      accuracy: percentage of paragraphs whose nearest English embedding is their translation; NaN for English itself.
      cosine: mean cosine of embeddings to the static ones.
      tokens: of all paragraphs, prefixes and special tokens not counted.
      static_tokens: the same under static tokenization.
      english_tokens: of the same paragraphs in English, in this setting.
      static_english_tokens: the same under static tokenization.
    """

    accuracy: float
    cosine: float
    tokens: int
    static_tokens: int
    english_tokens: int
    static_english_tokens: int

    @property
    def reduction(self) -> float:
        """1 − tokens ÷ static tokens, in percent."""
        return 100 * (1 - self.tokens / self.static_tokens)

    @property
    def price(self) -> float:
        """Tokens ÷ static tokens of the same paragraphs in English."""
        return self.tokens / self.static_english_tokens

    @property
    def premium(self) -> float:
        """Tokens ÷ tokens of the same paragraphs in English, in the same setting (Petrov et al., NeurIPS 2023)."""
        return self.tokens / self.english_tokens


Scores = dict[tuple[Setting, str], Score]


def load_pairs(data: str, options: PairOptions) -> tuple[Texts, Rows]:
    """Reads the texts by language, and which rows of each language are pairs (those with English).

    Raises:
      InputError: a language is not in the data, or has no pairs.
    """
    texts = load_sample() if data == "udhr" else read_aligned(data)
    missing = [language for language in ("en", *options.languages) if language not in texts]
    if missing:
        raise InputError(f"{data} has no {', '.join(missing)}: its languages are {' '.join(texts)}.")
    rows = {}
    for language in options.languages or [language for language in texts if language != "en"]:
        both = zip(texts["en"], texts[language], strict=True)
        rows[language] = np.flatnonzero([None not in pair for pair in both])[: options.limit]
    rows.pop("en", None)
    if not rows or not all(len(of_language) for of_language in rows.values()):
        raise InputError(
            f"{data} has no pairs with English for some of {' '.join(rows) or 'these languages'}: choose others."
        )
    return texts, rows


def english_rows(rows: Rows) -> np.ndarray:
    """The paragraphs that are read in English: those of any pair."""
    return np.unique(np.concatenate(list(rows.values())))


def count_texts(rows: Rows) -> int:
    """The number of texts that a setting reads."""
    return len(english_rows(rows)) + sum(len(of_language) for of_language in rows.values())


def accuracy(queries_ND: Float32[np.ndarray, "N D"], english_ND: Float32[np.ndarray, "N D"]) -> float:
    """Percentage of rows whose nearest English row (both of norm 1) has the same index."""
    nearest_N = (queries_ND @ english_ND.T).argmax(axis=1)
    return 100 * float((nearest_N == np.arange(len(queries_ND))).mean())


def score_translations(
    encode: Encode,
    texts: Texts,
    rows: Rows,
    settings: Sequence[Setting],
    english: Literal["static", "dynamic"] = "dynamic",
) -> Scores:
    """Encodes every language in every setting and scores it.

    Args:
      encode: from `encode_in_settings`.
      texts: from `load_pairs`.
      rows: the same.
      settings: which ones.
      english: the tokenization of the English texts that are searched.
    """
    in_english = english_rows(rows)
    all_rows = {"en": in_english, **rows}

    def read(setting: Setting, language: str) -> EncodedTexts:
        return encode(setting, language, [texts[language][row] for row in all_rows[language]])

    static = {language: read(Setting(STATIC), language) for language in all_rows}
    scores: Scores = {}
    for setting in settings:
        encoded_english = static["en"]
        for language in all_rows:
            encoded = static[language] if setting.method == STATIC else read(setting, language)
            if language == "en":
                encoded_english = encoded
            pairs = np.searchsorted(in_english, all_rows[language])
            pool_ND = pooled(encoded_english if english == "dynamic" else static["en"])[pairs]
            scores[setting, language] = Score(
                accuracy=accuracy(pooled(encoded), pool_ND) if language != "en" else float("nan"),
                cosine=float((pooled(encoded) * pooled(static[language])).sum(axis=1).mean()),
                tokens=int(encoded.n_tokens.sum()),
                static_tokens=int(static[language].n_tokens.sum()),
                english_tokens=int(encoded_english.n_tokens[pairs].sum()),
                static_english_tokens=int(static["en"].n_tokens[pairs].sum()),
            )
    return scores
