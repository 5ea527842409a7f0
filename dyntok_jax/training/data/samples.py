"""All texts that batches are drawn from, by number: the texts of a corpus, then endless pseudo-texts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from dyntok_jax.training.data.corpus import Corpus
from dyntok_jax.training.data.word_texts import WordTexts

_ENDLESS = 1 << 40


@dataclass(frozen=True)
class Samples:
    """Texts and pseudo-texts of several languages.

    The rows are those of the corpus, then pseudo-texts, whose languages alternate.

    Attributes:
      corpus: the texts, None where there are none.
      word_texts: pseudo-texts by language.
    """

    corpus: Corpus | None
    word_texts: dict[str, WordTexts]

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that have texts, then of those that have only words."""
        with_texts = self.corpus.languages if self.corpus else ()
        return (*with_texts, *(code for code in self.word_texts if code not in with_texts))

    @property
    def n_texts(self) -> int:
        """Texts in the corpus; also the row of the first pseudo-text."""
        return len(self.corpus) if self.corpus else 0

    def text_rows(self, code: str) -> range:
        """Rows of a language's texts."""
        if not self.corpus or code not in self.corpus.languages:
            return range(0)
        at = self.corpus.languages.index(code)
        return range(*self.corpus.first_row[at : at + 2].tolist())

    def word_rows(self, code: str) -> range:
        """Rows of a language's pseudo-texts."""
        if code not in self.word_texts:
            return range(0)
        step = len(self.word_texts)
        first = self.n_texts + list(self.word_texts).index(code)
        return range(first, first + step * _ENDLESS, step)

    def weight(self, code: str) -> int:
        """A language's number of texts; for one with words only, the average number."""
        n_languages = len(self.corpus.languages) if self.corpus else 1
        return len(self.text_rows(code)) or max(1, self.n_texts // n_languages)

    def text(self, row: int) -> str:
        """One text or pseudo-text."""
        if self.corpus and row < self.n_texts:
            return self.corpus.text(row)
        word_texts, index = self._word_text(row)
        return word_texts.text(index)

    def language(self, row: int) -> str:
        """The code of a row's language."""
        if self.corpus and row < self.n_texts:
            return self.corpus.language(row)
        return list(self.word_texts)[(row - self.n_texts) % len(self.word_texts)]

    def lengths(self, rows: Int[np.ndarray, "rows"]) -> Int32[np.ndarray, "rows"]:
        """The estimated number of subwords of each."""
        lengths = np.zeros(len(rows), np.int32)
        is_text = rows < self.n_texts
        if self.corpus:
            lengths[is_text] = self.corpus.length_N[rows[is_text]]
        for at in np.flatnonzero(~is_text).tolist():
            word_texts, index = self._word_text(int(rows[at]))
            lengths[at] = word_texts.length(index)
        return lengths

    def _word_text(self, row: int) -> tuple[WordTexts, int]:
        """The pseudo-texts that a row belongs to, and its index among them."""
        index, number = divmod(row - self.n_texts, len(self.word_texts))
        return self.word_texts[list(self.word_texts)[number]], index
