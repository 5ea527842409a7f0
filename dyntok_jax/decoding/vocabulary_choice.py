"""The vocabulary that texts are generated in: the model's own, the same plus each prompt's tokens, or a large one."""

from collections.abc import Sequence
from typing import Literal

from dyntok_jax.decoding.loaded_vocabulary import LoadedVocabulary
from dyntok_jax.decoding.prompt_entries import PromptEntries, prompt_entries
from dyntok_jax.decoding.prompts import ReadPrompts
from dyntok_jax.decoding.sampling import SamplingConfig
from dyntok_jax.decoding.text_stream import NewEntries
from dyntok_jax.decoding.vocabularies import LargeVocabulary
from dyntok_jax.errors import InputError
from dyntok_jax.text import ByteLevelTokenizer

VocabularyChoice = LoadedVocabulary | Literal["prompt"] | None
"""A large vocabulary; the model's own plus the tokens that the prompt was merged to; or its own alone."""


def candidates_of(
    vocabulary: VocabularyChoice, read: ReadPrompts, tokenizer: ByteLevelTokenizer, n_own: int, sampling: SamplingConfig
) -> tuple[LargeVocabulary | list[PromptEntries] | None, Sequence[NewEntries | None]]:
    """The candidates for all texts, and for each text the strings of those that the model's own vocabulary lacks.

    Args:
      vocabulary: to generate in.
      read: the prompts.
      tokenizer: of the model.
      n_own: rows of the model's table.
      sampling: how tokens are chosen.

    Raises:
      InputError: a vocabulary of another decoder, or with fewer candidates than top-k samples from; `prompt` with
        prompts that were not merged; something that is not a vocabulary.
    """
    if vocabulary is None:
        return None, [None] * len(read.tokens)
    if isinstance(vocabulary, LoadedVocabulary):
        vocabulary.check_use(tokenizer, sampling)
        return vocabulary.large, [vocabulary.entries] * len(read.tokens)
    if vocabulary != "prompt":
        raise InputError(f"vocabulary must come from load_vocabulary, or be 'prompt' or None, got {vocabulary!r}.")
    if read.is_static:
        raise InputError(
            "Static tokenization, the default, merges nothing, so the prompt has no merged tokens to generate: give a "
            "goal (goal=Share(100), --share 100)."
        )
    entries = [prompt_entries(tokenizer, tokens, n_own=n_own) for tokens in read.tokens]
    return entries, entries


def longest_token(vocabulary: VocabularyChoice, read: ReadPrompts) -> int:
    """The most positions that a token of a vocabulary can take after these prompts."""
    if read.positions == "tokens" or vocabulary is None:
        return 1
    if isinstance(vocabulary, LoadedVocabulary):
        return vocabulary.large.constituents_VS.shape[1]
    return int(read.tokens.length_M.max(initial=1))
