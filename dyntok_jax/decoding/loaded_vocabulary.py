"""A large vocabulary for a decoder to write in: its entries, their rows and an index, checked against each other."""

import os
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32

from dyntok_jax.decoding.sampling import SamplingConfig
from dyntok_jax.decoding.vocabularies import LargeVocabulary, place_vocabulary
from dyntok_jax.errors import InputError
from dyntok_jax.models import Decoder
from dyntok_jax.options import whole_number
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.vocabulary import GrownVocabulary, VocabularyTable, load_vocabulary, open_table
from dyntok_jax.vocabulary.index import MipsIndex, load_index, table_identity, zero_rows

COMPARED_ROWS = 256
"""The model's own rows by which its table is known."""
ROUNDING = 2**-7
"""How far apart two roundings of a number may be, in parts of it: more than bfloat16's."""


@dataclass(frozen=True)
class LoadedVocabulary:
    """A vocabulary that `DynamicDecoder.load_vocabulary` loaded.

    Attributes:
      entries: what its tokens are.
      large: their rows, placed.
    """

    entries: GrownVocabulary
    large: LargeVocabulary

    def check_use(self, tokenizer: ByteLevelTokenizer, sampling: SamplingConfig) -> None:
        """Raises InputError for another decoder than it was loaded for, or a top-k that its candidates cannot give."""
        if self.entries.tokenizer is not tokenizer:
            raise InputError("The vocabulary was loaded for another decoder: load it with this one's load_vocabulary.")
        if sampling.top_k is not None and sampling.top_k > self.large.k:
            raise InputError(
                f"top_k draws from {sampling.top_k} tokens, and a step in the large vocabulary has {self.large.k} "
                "candidates: ask for more candidates, or a smaller top_k."
            )


def load_large_vocabulary(
    vocabulary: str | os.PathLike,
    table: str | os.PathLike,
    index: str | os.PathLike | None,
    *,
    tokenizer: ByteLevelTokenizer,
    model: Decoder,
    mesh: Mesh | None,
    k: int,
    n_probe: int,
) -> LoadedVocabulary:
    """Loads a vocabulary for a model.

    Bytes that the byte-level form appended to the model's own entries are no candidates: no text that the model was
    trained on has them, and their rows were never trained. Nor are entries whose row is zero, as the padding token's.

    Args:
      vocabulary: folder of its entries.
      table: folder of their rows.
      index: folder of an index of the rows, or None.
      tokenizer: of the model.
      model: its parameters.
      mesh: where they lie.
      k: candidates a step.
      n_probe: blocks of the index read for each text.

    Raises:
      InputError, ConfigError, CheckpointError: see `DynamicDecoder.load_vocabulary`.
    """
    k, n_probe = whole_number("k (candidates a step)", k), whole_number("n_probe (blocks a step)", n_probe)
    entries = load_vocabulary(vocabulary, tokenizer)
    rows = open_table(table, vocabulary_hash=entries.fingerprint)
    _check_model(rows, model, tokenizer.n_own)
    found = None if index is None else load_index(index, table=table_identity(rows.config))
    barred_E = np.arange(tokenizer.n_own, tokenizer.vocab_size, dtype=np.int32)
    if found is None:  # an index has none of them
        barred_E = np.concatenate([zero_rows(rows.rows(0, tokenizer.n_own, "output")), barred_E])
    _check_candidates(k, n_probe, found, entries.size, len(barred_E))
    large = LargeVocabulary(
        input_VD=rows.to_device(mesh),
        output_VD=rows.to_device(mesh, "output") if rows.config.has_output else None,
        index=found,
        constituents_VS=_constituents(entries),
        barred_E=barred_E,
        k=k,
        n_probe=n_probe,
    )
    return LoadedVocabulary(entries, place_vocabulary(large, mesh))


def _constituents(entries: GrownVocabulary) -> Int32[np.ndarray, "V S"]:
    """The model's own subwords of each entry, -1 behind them and for bytes that it has no row for."""
    surface_VS, is_subword_VS = entries.surface_forms(0, entries.size)
    return np.where(is_subword_VS & (surface_VS < entries.tokenizer.n_own), surface_VS, np.int32(-1))


def _check_model(rows: VocabularyTable, model: Decoder, n_own: int) -> None:
    """Raises InputError if a table's first rows are not the model's own."""
    tables = {"input": model.word_embeddings, "output": model.output_embeddings}
    of_model = {name: table[...] for name, table in tables.items() if table is not None}
    is_alike = rows.config.tables == tuple(of_model)
    for name in rows.config.tables if is_alike else ():
        n_rows = min(COMPARED_ROWS, n_own)
        own, stored = np.asarray(of_model[name][:n_rows], np.float32), rows.rows(0, n_rows, name).astype(np.float32)
        is_alike = is_alike and own.shape == stored.shape and np.allclose(own, stored, rtol=ROUNDING, atol=1e-6)
    if not is_alike:
        raise InputError(
            f"{rows.folder} holds rows for another model ({rows.config.model or 'one without a name'}): those of the "
            "model's own subwords are not this model's. Embed the vocabulary with this model."
        )


def _check_candidates(k: int, n_probe: int, index: MipsIndex | None, n_rows: int, n_barred: int) -> None:
    """Raises InputError if a step may find fewer tokens than k."""
    where, remedy = "the vocabulary has", "ask for fewer"
    if index is not None and n_probe < len(index.blocks):
        n_rows = int(np.sort(index.blocks.count)[:n_probe].sum()) + len(index.special_E)
        where, remedy = f"{n_probe} blocks of the index may hold no more than", "ask for fewer, or read more blocks"
    if k + n_barred > n_rows:
        raise InputError(f"{k} candidates a step are asked for, and {where} {max(0, n_rows - n_barred)}: {remedy}.")
