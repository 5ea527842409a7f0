"""What texts are written in: the model's own vocabulary, that and each prompt's tokens, or a large one."""

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

WrittenIn = LoadedVocabulary | Literal["prompt"] | None
"""A large vocabulary; the model's own with the tokens that the prompt was merged to; or its own alone."""


def what_to_choose_from(
    vocabulary: WrittenIn, read: ReadPrompts, tokenizer: ByteLevelTokenizer, n_own: int, sampling: SamplingConfig
) -> tuple[LargeVocabulary | list[PromptEntries] | None, Sequence[NewEntries | None]]:
    """The candidates for all texts, and for each text what spells those that the model's own vocabulary does not have.

    Args:
      vocabulary: to write in.
      read: the prompts.
      tokenizer: of the model.
      n_own: rows of the model's table.
      sampling: how tokens are chosen.

    Raises:
      InputError: a vocabulary of another decoder, or with fewer candidates than top-k draws from; prompts that were not
        merged, and should be written on in their own tokens; something that is no vocabulary.
    """
    if vocabulary is None:
        return None, [None] * len(read.tokens)
    if isinstance(vocabulary, LoadedVocabulary):
        vocabulary.check_use(tokenizer, sampling)
        return vocabulary.large, [vocabulary.entries] * len(read.tokens)
    if vocabulary != "prompt":
        raise InputError(f"{vocabulary!r} is no vocabulary: give one of load_vocabulary, 'prompt', or None.")
    if read.is_static:
        raise InputError(
            "Static tokenization, the default, merges nothing, so that a prompt has no tokens of its own to write in: "
            "give a goal (goal=Share(100), --share 100)."
        )
    entries = [prompt_entries(tokenizer, tokens, n_own=n_own) for tokens in read.tokens]
    return entries, entries
