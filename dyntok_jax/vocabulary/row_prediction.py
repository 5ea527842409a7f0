"""The rows of a grown vocabulary, predicted chunk by chunk by a hypernetwork or FVT and written to a table on disk."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dyntok_jax.embedding import (
    Hypernet,
    HypernetConfig,
    average_with_filler,
    check_hypernet_fits,
    collect,
    filler_row,
    language_index,
    languages_of,
    predict_embeddings,
    predict_in_buckets,
)
from dyntok_jax.errors import CheckpointError, ConfigError, InputError, NotANumberError
from dyntok_jax.models import Decoder
from dyntok_jax.options import whole_number
from dyntok_jax.parameters import fingerprint
from dyntok_jax.sharding import data_parts, shard_batch
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.vocabulary.grown_vocabulary import GrownVocabulary, readable
from dyntok_jax.vocabulary.row_table import (
    CONFIG,
    Dtype,
    TableConfig,
    VocabularyTable,
    as_damage,
    is_chunk_whole,
    mended_stores,
    open_table,
    read_rows_done,
    read_table_config,
    readable_bytes,
    write_rows_done,
    write_table_config,
)

CHUNK_ROWS = 8192
BATCH_ROWS = 1024
"""Rows per prediction; the last batch of each chunk and surface length is padded to this size."""
FVT = "fvt"


@dataclass(frozen=True)
class RowSource:
    """What the rows of a vocabulary are computed from.

    Attributes:
      input_VD: the model's input table.
      output_VD: its output table; None if the tables are tied.
      hypernet: config and parameters; None for FVT.
      language: of the texts, for a multilingual hypernetwork.
      model: the model's name, for people who open the folder.
      reader: the model itself, for a hypernetwork that reads entries with its first layers.

    >>> from dyntok_jax.convert import load_tables
    >>> source = RowSource(*load_tables(decoder_folder), model="tiny")
    >>> source.input_VD.shape, source.hypernet
    ((600, 32), None)
    """

    input_VD: Float[Array, "V D"]
    output_VD: Float[Array, "V D"] | None = None
    hypernet: tuple[HypernetConfig, Hypernet] | None = None
    language: str | None = None
    model: str = ""
    reader: Decoder | None = None


def embed_vocabulary(
    folder: str | os.PathLike,
    vocabulary: GrownVocabulary,
    source: RowSource,
    *,
    dtype: Dtype = "float32",
    mesh: Mesh | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> VocabularyTable:
    """Writes the rows of all entries. A run that was interrupted continues after its last complete chunk.

    Chunks of an earlier run that are missing or damaged are made anew.

    The model's own rows are stored unchanged. Bytes that its byte-level form appended have none: a hypernetwork
    predicts them, FVT gives them the unknown token's row, or the mean of all rows if the tokenizer has no such token.

    Args:
      folder: to create, or begun by an earlier run with the same arguments.
      vocabulary: whose entries to embed.
      source: what their rows are computed from.
      dtype: of the stored rows.
      mesh: batches are split over its axis `data`.
      chunk_rows: rows written at a time.
      overwrite: replace another table of that name.
      progress: called with the numbers of rows written, or found whole.

    Returns:
      The table, open for reading.

    Raises:
      ConfigError: model, hypernetwork and vocabulary do not fit each other.
      InputError: the folder holds something else, or the disk is too small.
      CheckpointError: the table cannot be written.
      NotANumberError: a row is not finite, or that of a new entry is zero; the error names the entry.

    >>> from dyntok_jax.convert import load_tables
    >>> table = embed_vocabulary(folder / "table", grown, RowSource(*load_tables(decoder_folder)))
    >>> table.rows(610, 612, "output").shape
    (2, 32)
    """
    folder, tokenizer = Path(folder), vocabulary.tokenizer
    if dtype not in get_args(Dtype):
        raise InputError(f"A table has rows of {', '.join(get_args(Dtype))}, got {dtype!r}.")
    chunk_rows = whole_number("chunk_rows", chunk_rows)
    source_VD, output_VD, hypernet = source.input_VD, source.output_VD, source.hypernet
    _check_fit(vocabulary, source_VD, output_VD, hypernet)
    source_VM = source_VD if output_VD is None else jnp.concatenate([source_VD, output_VD], axis=1)
    n_parts = data_parts(mesh)
    n_batch = -(-BATCH_ROWS // n_parts) * n_parts
    predict = _predictor(tokenizer, source_VM, source, mesh)
    config = TableConfig(
        model=source.model,
        model_tables=fingerprint(source_VM),
        hypernetwork=FVT if hypernet is None else fingerprint(hypernet[1]),
        language=source.language or "",
        vocabulary=vocabulary.fingerprint,
        dtype=dtype,
        rows=vocabulary.size,
        width=source_VD.shape[1],
        chunk_rows=chunk_rows,
        has_output=output_VD is not None,
    )
    try:
        n_done = _begin(folder, config, overwrite)
        stores = mended_stores(folder, config)
        for start in range(0, config.rows, chunk_rows):
            stop = min(start + chunk_rows, config.rows)
            if stop <= n_done and is_chunk_whole(stores, start, stop):
                progress(stop - start)
                continue
            rows_UM = _rows(start, stop, vocabulary, source_VM, predict, n_batch)
            with np.errstate(over="ignore"):  # a number too large for the dtype raises below
                rows_UM = rows_UM.astype(jnp.dtype(dtype))
            _check_rows(rows_UM, start, vocabulary, config.width)
            with as_damage(folder):
                parts = np.split(rows_UM, len(config.tables), axis=1)
                writes = [stores[name][start:stop].write(part) for name, part in zip(config.tables, parts, strict=True)]
                for write in writes:
                    write.result()
            write_rows_done(folder, max(stop, n_done))
            progress(stop - start)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}.") from error
    return open_table(folder, vocabulary_hash=vocabulary.fingerprint)


def _check_fit(vocabulary: GrownVocabulary, source_VD, output_VD, hypernet) -> None:
    """Raises ConfigError if model, hypernetwork and vocabulary do not fit each other."""
    tokenizer = vocabulary.tokenizer
    if source_VD.shape[0] < tokenizer.n_own:
        raise ConfigError(
            f"The tokenizer has {tokenizer.n_own} subwords and the model's table {source_VD.shape[0]} rows: "
            "use the model that the vocabulary was built for."
        )
    if hypernet is None:
        return
    config, _ = hypernet
    check_hypernet_fits(
        config,
        width=source_VD.shape[1],
        vocab_size=tokenizer.n_own,
        n_appended=tokenizer.vocab_size - tokenizer.n_own,
        separate_output=output_VD is not None,
    )
    if output_VD is not None and not config.separate_output:
        raise ConfigError(
            "The model has an output table of its own, but this hypernetwork predicts no rows of it: use one with "
            "separate_out_embeddings = true, or none (FVT)."
        )
    longest = vocabulary.constituents_ES.shape[1]
    if longest > config.max_subwords:
        raise ConfigError(
            f"Entries of the vocabulary have up to {longest} subwords, but the hypernetwork was trained for "
            f"{config.max_subwords}: build the vocabulary with at most that many (--max-subwords)."
        )


def _predictor(
    tokenizer: ByteLevelTokenizer,
    source_VM: Float[Array, "V M"],
    source: RowSource,
    mesh: Mesh | None,
) -> Callable[..., Float[Array, "U M"]]:
    """A function from surface forms to rows: input, or [input ‖ output]."""
    language = source.language
    if source.hypernet is None:
        if language is not None:
            raise InputError("The mean of subwords (FVT) does not depend on the language: omit it.")
        filler_M, n_own = filler_row(tokenizer, source_VM), tokenizer.n_own

        def average(surface_US, is_subword_US, _) -> Float[Array, "U M"]:
            surface_US, is_subword_US = shard_batch(surface_US, mesh), shard_batch(is_subword_US, mesh)
            return _average(surface_US, is_subword_US, source_VM, filler_M, n_own)

        return average

    config, parameters = source.hypernet
    reader = source.reader if config.read_layers else None
    languages = languages_of(config.n_langs, config.langs)
    if languages and language is None:
        raise InputError(f"This hypernetwork is multilingual: name the texts' language ({' '.join(languages)}).")
    if language is not None and not languages:
        raise InputError("This hypernetwork has no languages: omit the language.")
    index = None if language is None else language_index(language, languages)

    def predict(surface_US, is_subword_US, _) -> Float[Array, "U M"]:
        surface_US, is_subword_US = shard_batch(surface_US, mesh), shard_batch(is_subword_US, mesh)
        return _predict(parameters, surface_US, is_subword_US, source_VM, index, reader)

    return predict


_average = jax.jit(average_with_filler)


@jax.jit
def _predict(hypernet, surface_US, is_subword_US, source_VM, language, reader) -> Float[Array, "U M"]:
    found = predict_embeddings(hypernet, surface_US, is_subword_US, source_VM, language, reader)
    return found.input_UD if found.output_UD is None else jnp.concatenate([found.input_UD, found.output_UD], axis=1)


def _begin(folder: Path, config: TableConfig, overwrite: bool) -> int:
    """Creates the folder, or checks that it holds the same table; returns the number of rows already written."""
    if (folder / CONFIG).is_file():
        try:
            found = read_table_config(folder)
        except InputError:
            if not overwrite:
                raise
            found = None
        if found == config:
            return read_rows_done(folder)
        if found is not None and not overwrite:
            names = [name for name, value in vars(config).items() if getattr(found, name) != value]
            raise InputError(
                f"{folder} is another table (it differs in {', '.join(names)}): choose another name, or "
                "replace it (--overwrite)."
            )
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise InputError(f"{folder} exists already and is not a table: choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < config.n_bytes:
        folder.rmdir()
        raise InputError(
            f"The table takes {readable_bytes(config.n_bytes)}, but {folder.absolute().parent} has "
            f"{readable_bytes(free)} free: use another disk, or store it as bfloat16."
        )
    write_table_config(folder, config)
    return 0


def _rows(
    start: int,
    stop: int,
    vocabulary: GrownVocabulary,
    source_VM: Float[Array, "V M"],
    predict: Callable[..., Float[Array, "U M"]],
    n_batch: int,
) -> Float[np.ndarray, "U M"]:
    """Rows of consecutive entries, in float32."""
    surface_US, is_subword_US = vocabulary.surface_forms(start, stop)
    n_source = min(max(vocabulary.tokenizer.n_own - start, 0), stop - start)
    source_UM = np.asarray(source_VM[start : start + n_source], np.float32)
    n_new = stop - start - n_source
    forms = surface_US[n_source:], is_subword_US[n_source:]
    pending = predict_in_buckets(predict, *forms, np.zeros(n_new, np.int32), row_buckets=(n_batch,))
    return np.concatenate([source_UM, collect(pending, n_new, source_VM.shape[1])])


def _check_rows(rows_UM: np.ndarray, start: int, vocabulary: GrownVocabulary, width: int) -> None:
    """Raises NotANumberError for a row that searches would never find, or always."""
    wide_UM = rows_UM.astype(np.float32)
    is_new_U = np.arange(start, start + len(rows_UM)) >= vocabulary.tokenizer.n_own
    is_zero_U = (wide_UM.reshape(len(rows_UM), -1, width) == 0).all(axis=2).any(axis=1) & is_new_U
    for fault, is_faulty_U in {"not finite": ~np.isfinite(wide_UM).all(axis=1), "zero": is_zero_U}.items():
        if is_faulty_U.any():
            index = start + int(is_faulty_U.argmax())
            raise NotANumberError(
                f"The row of entry {index}, {readable(vocabulary.string(index))!r}, is {fault} (stored as "
                f"{rows_UM.dtype}): the model or the hypernetwork is damaged, or the dtype too narrow."
            )
