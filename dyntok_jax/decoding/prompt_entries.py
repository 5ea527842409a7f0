"""The merged tokens of prompts as a vocabulary to generate in: each prompt's own, after those of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32

from dyntok_jax.decoding.vocabularies import PromptVocabulary
from dyntok_jax.embedding import TokenInputs
from dyntok_jax.merging import TextTokens
from dyntok_jax.sharding import shard_batch
from dyntok_jax.text import SURFACE_BUCKETS, ByteLevelTokenizer, bucket


@dataclass(frozen=True)
class PromptEntries:
    """The tokens that a prompt was merged to and that the model's own vocabulary does not have.

    Attributes:
      n_own: rows of the model's table; the id of the n-th new token is `n_own` + n.
      strings: the byte-level string of each new token.
      places: the first position of each in the prompt, counted in tokens.
    """

    n_own: int
    strings: Sequence[str]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def string(self, index: int) -> str:
        """The byte-level string of a new token, by its id."""
        return self.strings[index - self.n_own]


def prompt_entries(tokenizer: ByteLevelTokenizer, tokens: TextTokens, *, n_own: int) -> PromptEntries:
    """The new tokens of a prompt, each string once; a token with the string of a model's own entry is left out.

    Args:
      tokenizer: of the model.
      tokens: of the prompt, after merging.
      n_own: rows of the model's table.
    """
    places: dict[str, int] = {}
    for place, ids in enumerate(tokens.ids()):
        string = tokenizer.token_string(ids) if len(ids) > 1 else None
        if string is not None and tokenizer.byte_level.token_to_id(string) is None:
            places.setdefault(string, place)
    return PromptEntries(n_own, list(places), list(places.values()))


def prompt_vocabulary(
    entries: Sequence[PromptEntries],
    texts: Sequence[TextTokens],
    inputs: TokenInputs[np.ndarray],
    output_UD: Float32[np.ndarray, "U D"] | None,
    mesh: Mesh | None,
) -> PromptVocabulary:
    """The vocabulary of a batch of prompts, padded like the prompts, so that it compiles nothing more.

    Args:
      entries: the new tokens of each prompt.
      texts: the tokens of each prompt.
      inputs: the prompts as the model reads them, on the host: they hold the input row of each new token.
      output_UD: the rows that new tokens are scored by, in the order of `inputs.rows_RD`; None if those are the same.
      mesh: over which it is sharded, or None.
    """
    row_BT, rows_RD = inputs.row_BT, inputs.rows_RD
    assert row_BT is not None, "static prompts have no new tokens"
    assert rows_RD is not None, "static prompts have no new tokens"
    longest = max((len(ids) for of_text in texts for ids in of_text.ids()), default=1)
    n_batch, n_places = inputs.mask_BT.shape
    row_BN = np.full((n_batch, n_places), -1, np.int32)
    constituents_BNS = np.full((n_batch, n_places, bucket(longest, SURFACE_BUCKETS[1:])), -1, np.int32)
    for row, (of_text, tokens) in enumerate(zip(entries, texts, strict=True)):
        row_BN[row, : len(of_text)] = row_BT[row, list(of_text.places)]
        ids = tokens.ids()
        for number, place in enumerate(of_text.places):
            constituents_BNS[row, number, : len(ids[place])] = ids[place]
    output_RD = None
    if output_UD is not None:
        output_RD = np.zeros_like(rows_RD)
        output_RD[: len(output_UD)] = output_UD

    def replicated(rows_RD):
        if mesh is None or rows_RD is None:
            return rows_RD
        return jax.device_put(rows_RD, NamedSharding(mesh, PartitionSpec()))

    return PromptVocabulary(
        input_RD=replicated(rows_RD),
        output_RD=replicated(output_RD),
        row_BN=shard_batch(row_BN, mesh),
        constituents_BNS=shard_batch(constituents_BNS, mesh),
    )
