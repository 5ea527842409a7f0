"""A large vocabulary for a decoder to generate in: its entries, their rows and an index, checked against each other."""

import os
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32

from dyntok_jax.decoding.sampling import SamplingConfig
from dyntok_jax.decoding.vocabularies import LargeVocabulary, shard_vocabulary
from dyntok_jax.errors import InputError
from dyntok_jax.models import Decoder
from dyntok_jax.options import whole_number
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.vocabulary import GrownVocabulary, VocabularyTable, load_vocabulary, open_table
from dyntok_jax.vocabulary.index import MipsIndex, load_index, table_identity, zero_rows

COMPARED_ROWS = 256
"""The model's own rows that are compared with the table's."""
ROUNDING = 2**-7
"""The largest relative difference between two roundings of a number: more than bfloat16's."""


@dataclass(frozen=True)
class LoadedVocabulary:
    """A vocabulary that `DynamicDecoder.load_vocabulary` loaded.

    Attributes:
      entries: its tokens.
      large: their rows, on the device.

    >>> from dyntok_jax.vocabulary import GrownVocabulary, RowSource, embed_vocabulary, save_vocabulary
    >>> entries = GrownVocabulary(decoder.tokenizer, np.array([[300, 301]], np.int32), "pretoken")
    >>> save_vocabulary(folder / "vocab", entries)
    >>> source = RowSource(decoder.decoder.word_embeddings[...], decoder.decoder.output_embeddings[...])
    >>> _ = embed_vocabulary(folder / "table", entries, source)
    >>> loaded = decoder.load_vocabulary(folder / "vocab", folder / "table")
    >>> loaded.entries.size - decoder.config.vocab_size, loaded.large.k
    (1, 64)
    """

    entries: GrownVocabulary
    large: LargeVocabulary

    def check_use(self, tokenizer: ByteLevelTokenizer, sampling: SamplingConfig) -> None:
        """Raises InputError if it was loaded for another decoder, or if top-k exceeds its candidates."""
        if self.entries.tokenizer is not tokenizer:
            raise InputError("The vocabulary was loaded for another decoder: load it with this one's load_vocabulary.")
        if sampling.top_k is not None and sampling.top_k > self.large.k:
            raise InputError(
                f"top_k is {sampling.top_k}, but a step in the large vocabulary has only {self.large.k} candidates: "
                "ask for more candidates, or a smaller top_k."
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

    Entries that are not tokens of the model (bytes that its byte-level form appended, gaps between its ids) are banned:
    they were not in the model's training text, and their rows were never trained. So are entries whose row is zero,
    such as the padding token's.

    Args:
      vocabulary: folder of its entries.
      table: folder of their rows.
      index: folder of an index of the rows, or None.
      tokenizer: of the model.
      model: its parameters.
      mesh: over which they are sharded, or None.
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
    banned_E = tokenizer.tokenless_ids
    if found is None:  # an index has no zero rows
        banned_E = np.union1d(zero_rows(rows.rows(0, tokenizer.n_own, "output")), banned_E).astype(np.int32)
    _check_candidates(k, n_probe, found, entries.size, len(banned_E))
    large = LargeVocabulary(
        input_VD=rows.to_device(mesh),
        output_VD=rows.to_device(mesh, "output") if rows.config.has_output else None,
        index=found,
        constituents_VS=_constituents(entries),
        banned_E=banned_E,
        k=k,
        n_probe=n_probe,
    )
    return LoadedVocabulary(entries, shard_vocabulary(large, mesh))


def _constituents(entries: GrownVocabulary) -> Int32[np.ndarray, "V S"]:
    """The model's own subwords of each entry, -2 for bytes that the model has no row for, then -1."""
    surface_VS, is_subword_VS = entries.surface_forms(0, entries.size)
    known_VS = np.where(surface_VS < entries.tokenizer.n_own, surface_VS, np.int32(-2))
    return np.where(is_subword_VS, known_VS, np.int32(-1))


def _check_model(rows: VocabularyTable, model: Decoder, n_own: int) -> None:
    """Raises InputError if the first rows of a table are not the model's own."""
    tables = {"input": model.word_embeddings, "output": model.output_embeddings}
    of_model = {name: table[...] for name, table in tables.items() if table is not None}
    is_alike = rows.config.tables == tuple(of_model)
    for name in rows.config.tables if is_alike else ():
        n_rows = min(COMPARED_ROWS, n_own)
        own, stored = np.asarray(of_model[name][:n_rows], np.float32), rows.rows(0, n_rows, name).astype(np.float32)
        is_alike = is_alike and own.shape == stored.shape and np.allclose(own, stored, rtol=ROUNDING, atol=1e-6)
    if not is_alike:
        raise InputError(
            f"{rows.folder} holds rows for another model ({rows.config.model or 'one without a name'}): the rows of "
            "the subwords differ from this model's. Embed the vocabulary with this model."
        )


def _check_candidates(k: int, n_probe: int, index: MipsIndex | None, n_rows: int, n_banned: int) -> None:
    """Raises InputError if a step may find fewer tokens than k."""
    where, remedy = "the vocabulary has", "ask for fewer"
    if index is not None and n_probe < len(index.blocks):
        n_rows = int(np.sort(index.blocks.count)[:n_probe].sum()) + len(index.special_E)
        where, remedy = f"{n_probe} blocks of the index may hold only", "ask for fewer, or read more blocks"
    if k + n_banned > n_rows:
        raise InputError(f"A step must find {k} candidates, but {where} {max(0, n_rows - n_banned)}: {remedy}.")
