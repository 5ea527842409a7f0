"""Pseudo-texts of random words, for languages with little running text but a list of words.

They have no meaning, but the frozen model still gives hidden states for them, which a student that reads them as
dynamic tokens can learn. So distillation sees many more tokens of the language than its texts have.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from dyntok_jax.text import TextEncoder
from dyntok_jax.vocabulary import WordList

UNSPACED = frozenset({"zh", "th", "ja", "lo", "km", "my"})
"""Languages that put no spaces between words."""
MARKS = {"zh": ("，", "。"), "ja": ("、", "。"), "ar": ("، ", ". "), "hi": (", ", "। "), "th": (" ", " ")}
"""What follows the last word of a clause and of a sentence; other languages use English punctuation."""
COMMA_PROBABILITY = 0.06
END_PROBABILITY = 0.08
CAPITAL_PROBABILITY = 0.08
"""Of words within sentences: word lists are lower-case only, and texts have names."""
SHORTEST = 16
"""Subwords (estimated) of the shortest text."""
_SAMPLE = 64


@dataclass(frozen=True)
class WordTexts:
    """An endless sequence of pseudo-texts; each is a function of its index.

    Attributes:
      words: to draw from.
      cumulative_W: cumulative probabilities of the words.
      between: text between words.
      clause: text after a clause.
      sentence: text after a sentence.
      seed: of this language.
      shortest: approximate characters of the shortest text.
      longest: approximate characters of the longest text.
      density: subwords per character.
    """

    words: tuple[str, ...]
    cumulative_W: Float[np.ndarray, "W"]
    between: str
    clause: str
    sentence: str
    seed: int
    shortest: float = 40.0
    longest: float = 240.0
    density: float = 0.0

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that the texts depend on."""
        decisive = (self.words, self.between, self.clause, self.sentence, self.seed, self.shortest, self.longest)
        digest = hashlib.blake2b(repr(decisive).encode(), digest_size=8)
        digest.update(self.cumulative_W.data)
        return digest.hexdigest()

    def length(self, index: int) -> int:
        """The estimated number of subwords of a text."""
        return round(self._characters(self._rng(index)) * self.density)

    def text(self, index: int) -> str:
        """One pseudo-text."""
        rng = self._rng(index)
        wanted = self._characters(rng)
        written, parts, starts_sentence = 0, [], True
        while written < wanted:
            count = 1 + int((wanted - written) / 4)  # more than enough, except for very short words
            drawn = np.searchsorted(self.cumulative_W, rng.random(count), side="right")
            for at, mark, capital in zip(drawn.tolist(), rng.random(count), rng.random(count), strict=True):
                word = self.words[at]
                if starts_sentence or capital < CAPITAL_PROBABILITY:
                    word = word[0].upper() + word[1:]
                starts_sentence = mark < END_PROBABILITY
                is_clause = mark < END_PROBABILITY + COMMA_PROBABILITY
                after = self.sentence if starts_sentence else self.clause if is_clause else self.between
                parts.append(word + after)
                written += len(parts[-1])
                if written >= wanted:
                    break
        return "".join(parts).strip()

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, index))

    def _characters(self, rng: np.random.Generator) -> float:
        return rng.uniform(self.shortest, self.longest)


def make_word_texts(
    code: str, word_list: WordList, text_encoder: TextEncoder, *, exponent: float, longest: int, seed: int
) -> WordTexts:
    """Pseudo-texts of a language.

    Args:
      code: the language, which determines spaces and punctuation.
      word_list: its words.
      text_encoder: measures how many subwords there are per character.
      exponent: words are drawn in proportion to their weight to this power: 1 by weight, 0 all equally often.
      longest: roughly the most subwords of a text.
      seed: of everything drawn.
    """
    cumulative_W = np.cumsum(word_list.weight_W**exponent)
    clause, sentence = MARKS.get(code, (", ", ". "))
    draft = WordTexts(
        words=word_list.words,
        cumulative_W=cumulative_W / cumulative_W[-1],
        between="" if code in UNSPACED else " ",
        clause=clause,
        sentence=sentence,
        seed=seed,
    )
    sample = [draft.text(index) for index in range(_SAMPLE)]
    density = max(int(text_encoder.encode_static(sample).counts.sum()), 1) / sum(map(len, sample))
    # texts end with a whole word, so they are longer than the number drawn: leave room for a word
    room = max(longest - 4, 1) / density
    return replace(draft, shortest=min(SHORTEST / density, room), longest=room, density=density)
