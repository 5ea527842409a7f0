"""What a run begins with: the frozen model, a network of the right shape, and held-out text to validate on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dyntok_jax.convert.hypernet import load_hypernet
from dyntok_jax.convert.mistral import load_decoder
from dyntok_jax.convert.safetensors import read_config
from dyntok_jax.convert.xlmr import load_encoder, load_masked_lm_head
from dyntok_jax.embedding.hypernet import Hypernet, init_hypernet
from dyntok_jax.embedding.hypernet_config import HypernetConfig, check_hypernet_fits
from dyntok_jax.embedding.hypernet_scale import with_table_scalers
from dyntok_jax.errors import InputError
from dyntok_jax.hub import find_model
from dyntok_jax.merging import Share
from dyntok_jax.models.mistral_config import MODEL_TYPES as DECODER_TYPES
from dyntok_jax.sharding import shardings_for
from dyntok_jax.text.aligned import read_aligned
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.text.encode import TextEncoder
from dyntok_jax.text.lines import read_lines
from dyntok_jax.training.batch import TextBatch, TrainingBatch
from dyntok_jax.training.data import DataConfig
from dyntok_jax.training.objectives import FrozenModel, freeze
from dyntok_jax.training.pieces import make_piece_batch, vocabulary_pieces
from dyntok_jax.training.text_batch import make_text_batch
from dyntok_jax.training.validation import PIVOT

ALIGNED_SUFFIXES = (".jsonl", ".jsonl.gz")
MASK_TOKENS = ("<mask>", "[MASK]")
UNNAMED = "text"
"""Stands for the language where neither the option nor the file's name says one."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the hypernetwork, where the model does not decide it.

    Attributes:
      layers: of its transformer.
      hidden: width of its transformer.
      ffn: feed-forward width of its transformer and projector blocks.
      heads: attention heads.
      max_subwords: S, the longest token it is trained for.
      residual: whether it starts at FVT, to which it adds.
      predict_bias: whether it predicts the unigram bias of a masked-LM head.
    """

    layers: int = 2
    hidden: int = 384
    ffn: int = 1536
    heads: int = 6
    max_subwords: int = 7
    residual: bool = True
    predict_bias: bool = False


def load_frozen(
    model: str, *, dtype: str = "float32", mesh: Mesh | None = None, with_head: bool = False
) -> tuple[FrozenModel, ByteLevelTokenizer]:
    """Loads the model that a hypernetwork is to be trained for, and its tokenizer.

    Args:
      model: a folder, a Hub id, or a packaged model's name.
      dtype: of its parameters and its computation.
      mesh: places them by the rules in `sharding.py`.
      with_head: load an encoder's masked-LM head, too.

    Raises:
      ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: see `hub`, `convert`, `text`.
    """
    folder = find_model(model)
    place = None if mesh is None else partial(shardings_for, mesh=mesh)
    tokenizer = ByteLevelTokenizer.load(folder)
    if read_config(folder).get("model_type") in DECODER_TYPES:
        return freeze(load_decoder(folder, dtype=jnp.dtype(dtype), shardings=place)[1]), tokenizer
    body = load_encoder(folder, dtype=jnp.dtype(dtype), shardings=place)[1]
    if not with_head:
        return freeze(body), tokenizer
    mask_row = next((row for token in MASK_TOKENS if (row := tokenizer.own.token_to_id(token)) is not None), None)
    head = load_masked_lm_head(folder, dtype=jnp.dtype(dtype), shardings=place)
    return freeze(body, head, mask_row), tokenizer


def fresh_hypernet(network: NetworkConfig, frozen: FrozenModel, tokenizer: ByteLevelTokenizer, seed: int) -> Hypernet:
    """A hypernetwork for this model, drawn from a seed, its scalers set from the model's tables."""
    width = frozen.body.config.width
    config = HypernetConfig(
        width=width,
        hidden_width=network.hidden,
        ffn_width=network.ffn,
        n_layers=network.layers,
        n_heads=network.heads,
        vocab_size=tokenizer.n_own,
        n_extra_tokens=tokenizer.vocab_size - tokenizer.n_own,
        pad_token_id=0,  # sizes a table that nothing reads
        max_subwords=network.max_subwords,
        max_positions=network.max_subwords + 1,
        separate_output=frozen.source_VM.shape[1] > width,
        rescale=True,
        predict_bias=network.predict_bias,
        residual=network.residual,
    )
    return with_table_scalers(jax.jit(partial(init_hypernet, config))(jax.random.key(seed)), frozen.source_VM)


def given_hypernet(name: str, frozen: FrozenModel, tokenizer: ByteLevelTokenizer) -> Hypernet:
    """A trained hypernetwork to go on from.

    Raises:
      ConfigError: it was trained for another model.
    """
    config, hypernet = load_hypernet(find_model(name, kind="hypernetwork"))
    width = frozen.body.config.width
    check_hypernet_fits(
        config,
        width=width,
        vocab_size=tokenizer.n_own,
        n_appended=tokenizer.vocab_size - tokenizer.n_own,
        separate_output=frozen.source_VM.shape[1] > width,
    )
    return hypernet


def by_language(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sorts files by the language that `CODE=FILE` or the file's name (`de.txt.gz`) says."""
    sorted_files: dict[str, list[str]] = {}
    for file in files:
        given, _, path = file.rpartition("=")
        code = given or re.split(r"[._-]", Path(path).name)[0]
        is_code = given or re.fullmatch(r"[a-z]{2,3}", code)
        sorted_files.setdefault(code if is_code else UNNAMED, []).append(path)
    return {code: tuple(of_language) for code, of_language in sorted_files.items()}


def numbers_by_language(option: str, numbers: Sequence[str], languages: Iterable[str]) -> dict[str, float]:
    """`NUMBER` for all languages, `CODE=NUMBER` for one, as a number for each that is given one.

    Args:
      option: its name, for messages.
      numbers: what it was given.
      languages: the codes that there are.

    Raises:
      InputError: something is no number, or names a language that is not there.
    """
    found: dict[str, float] = {}
    for entry in sorted(numbers, key=lambda entry: "=" in entry):  # a language's own number comes after that for all
        code, _, digits = entry.rpartition("=")
        try:
            number = float(digits)
        except ValueError:
            raise InputError(f"{option} is given {entry!r}, which is no number: write 0.3, or fr=0.3.") from None
        if code and code not in languages:
            known = ", ".join(languages) or "none"
            raise InputError(f"{option} is given {entry!r}, and nothing is in language {code}; there are {known}.")
        found |= {code: number} if code else dict.fromkeys(languages, number)
    return found


def held_out(
    files: Sequence[str], data: DataConfig, text_encoder: TextEncoder, *, limit: int
) -> tuple[list[TextBatch], dict[str, list[TextBatch]]]:
    """Reads text to validate on, and merges it fully.

    Args:
      files: plain text, one text a line, or aligned JSON lines (.jsonl, .jsonl.gz) with a field a language.
      data: how training batches are made; share and seed play no part.
      text_encoder: of the model.
      limit: the most texts a file, or a language of an aligned one: the first.

    Returns:
      All texts in batches; and those of the aligned files that have English, by language, in the same order in each.

    Raises:
      InputError: a file cannot be read, or holds no text.
    """
    batches_of = partial(full_batches, data=data, text_encoder=text_encoder)
    batches, translations = [], {}
    for file in files:
        if not file.endswith(ALIGNED_SUFFIXES):
            batches += batches_of([line for line in read_lines(file) if line.strip()][:limit])
            continue
        columns = read_aligned(file)
        whole = [row for row in zip(*columns.values(), strict=True) if None not in row][:limit]
        if not whole:
            raise InputError(f"{file} has no paragraph in all of its languages ({' '.join(columns)}).")
        of_file = {code: batches_of(texts) for code, texts in zip(columns, zip(*whole, strict=True), strict=True)}
        batches += [batch for of_language in of_file.values() for batch in of_language]
        if PIVOT in of_file and len(of_file) > 1:
            translations |= of_file
    return batches, translations


def full_batches(texts: Sequence[str], data: DataConfig, text_encoder: TextEncoder) -> list[TextBatch]:
    """Batches of fully merged texts; the last one may be smaller.

    Args:
      texts: to validate on.
      data: how training batches are made; share and seed play no part.
      text_encoder: of the model.
    """
    return [
        make_text_batch(
            texts[at : at + data.batch_size],
            np.zeros(len(texts[at : at + data.batch_size]), np.int32),
            text_encoder,
            goal=Share(100),
            boundary=data.boundary,
            max_subwords=data.max_subwords,
            max_length=data.max_length,
            prefix=data.prefix,
            predict_all=data.predict_all,
            mask_probability=data.mask_probability,
            rng=np.random.default_rng(at),
        )
        for at in range(0, len(texts), data.batch_size)
    ]


def with_pieces(batches: Sequence[TextBatch], data: DataConfig, tokenizer: ByteLevelTokenizer) -> list[TrainingBatch]:
    """Batches to validate on: each with as many vocabulary pieces as a training batch has, the same at any time."""
    if not data.pieces_per_batch:
        return [TrainingBatch(batch, None) for batch in batches]
    pieces = vocabulary_pieces(tokenizer, max_subwords=data.max_subwords, mode=data.pieces)
    rng = np.random.default_rng(0)
    language_P = np.zeros(data.pieces_per_batch, np.int32)
    return [
        TrainingBatch(
            batch,
            make_piece_batch(
                pieces,
                rng.integers(0, len(pieces), data.pieces_per_batch),
                language_P,
                random_probability=0.0,
                rng=rng,
            ),
        )
        for batch in batches
    ]
