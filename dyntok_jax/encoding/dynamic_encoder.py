"""`DynamicEncoder`: a trained encoder with dynamic tokenization. Parameters, and the steps in order."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int32

from dyntok_jax.embedding import (
    COMPILED_STEPS as EMBEDDING_STEPS,
    DEFAULT_CACHE_ROWS,
    EmbeddingCache,
    TokenEmbedder,
    TokenInputs,
    embed_tokens,
)
from dyntok_jax.encoding.encoded_texts import EncodedTexts, Timings, timed
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.files import load_model
from dyntok_jax.merging import RaggedTokens, merge_texts
from dyntok_jax.models import Encoder, EncoderConfig, encode, l2_normalize, mean_pool
from dyntok_jax.options import AUTO, DEFAULT_MODEL, FULL, Goal, Merging, Pooling, SurfaceMode, one_merging, whole_number
from dyntok_jax.sharding import data_parts, shard_batch
from dyntok_jax.storage import read_json
from dyntok_jax.text import (
    BATCH_BUCKETS,
    ByteLevelTokenizer,
    Text,
    TextEncoder,
    bucket,
    divided_buckets,
    group_by_length,
    pad_ragged,
)
from dyntok_jax.types import AnyArray


class DynamicEncoder:
    """An encoder, its tokenizer, and what embeds new tokens: a hypernetwork, or FVT without one.

    Attributes:
      config: of the encoder.
      encoder: its parameters.
      text_encoder: its tokenizer, as texts go through it.
      embedder: rows for new tokens, and their cache.
      prefix: what the model expects before a text (`query: `).
      mesh: where parameters and batches lie, or None for the default device.
    """

    def __init__(
        self,
        config: EncoderConfig,
        encoder: Encoder,
        embedder: TokenEmbedder,
        *,
        prefix: str = "",
        mesh: Mesh | None = None,
    ):
        self.config, self.encoder, self.embedder = config, encoder, embedder
        self.text_encoder = TextEncoder(embedder.tokenizer)
        self.prefix, self.mesh = prefix, mesh

    @property
    def tokenizer(self) -> ByteLevelTokenizer:
        """The model's tokenizer and its byte-level form."""
        return self.embedder.tokenizer

    @property
    def cache(self) -> EmbeddingCache | None:
        """Embeddings predicted so far; None under FVT. Assign a loaded one of the model's width to start warm."""
        return self.embedder.cache

    @cache.setter
    def cache(self, cache: EmbeddingCache) -> None:
        self.embedder.cache = cache

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_MODEL,
        hypernet: str | Path | None = AUTO,
        *,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        keep_normalizer: bool = True,
        surface: SurfaceMode = "constituents",
        predict_all: bool = False,
        cache_rows: int = DEFAULT_CACHE_ROWS,
    ) -> "DynamicEncoder":
        """Loads a model, its tokenizer and a hypernetwork.

        Args:
          model: a folder, a Hub id, or an offline package's name (`e5-small`).
          hypernet: a folder or Hub id of a ZeTT hypernetwork; `auto` for the one that comes with the model, if any;
            None for FVT.
          dtype: of the parameters, and so of the computation; results are float32 whatever it is.
          mesh: places the parameters by the rules in `sharding.py` and splits batches over `data`.
          keep_normalizer: normalise text as the model was trained; ZeTT and the paper's reference do not.
          surface: how a token is shown to the hypernetwork.
          predict_all: predict the embeddings of single subwords too, as the paper does.
          cache_rows: the most embeddings kept.

        Raises:
          ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: see `hub`, `convert`, `text`.
        """
        loaded = load_model(model, hypernet, kind="encoder", dtype=dtype, mesh=mesh, keep_normalizer=keep_normalizer)
        embedder = TokenEmbedder(
            loaded.tokenizer,
            loaded.parameters.word_embeddings[...],
            loaded.hypernet,
            surface=surface,
            predict_all=predict_all,
            cache_rows=cache_rows,
        )
        prefix = default_prompt(loaded.folder)
        return cls(loaded.config, loaded.parameters, embedder, prefix=prefix, mesh=mesh)

    def encode(
        self,
        texts: Sequence[Text],
        *,
        goal: Goal | None = FULL,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        prefix: str | None = None,
        pooling: Pooling = "mean",
        normalize: bool = True,
        batch_size: int = BATCH_BUCKETS[-1],
        truncate: bool = False,
        on_progress: Callable[[int], None] | None = None,
        stopwatch: Timings | None = None,
    ) -> EncodedTexts:
        """Encodes texts with dynamic tokenization, or statically.

        Args:
          texts: strings, pairs (tuples) or pre-split words (lists).
          goal: when merging stops; None is static tokenization: the model's own tokenizer and ids.
          merging: all that merging may do, instead of `goal`; texts are merged to whole words together with those of
            their batch, unless this says otherwise.
          language: code of the texts' language, one for all or one each; only for multilingual hypernetworks.
          prefix: put before each text; by default what the model expects.
          pooling: `mean` over tokens, the `first` token, or `none` for hidden states.
          normalize: scale embeddings to length 1.
          batch_size: texts a batch.
          truncate: cut texts that are longer, after merging, than the model's positions.
          on_progress: called with the number of texts of each batch handed to the device.
          stopwatch: takes the seconds of each stage; each batch is then waited for, which nothing else does.

        Returns:
          Embeddings or hidden states in float32, with tokens and counts.

        Raises:
          InputError: texts, language or options that cannot be used, a merge list of another tokenizer or boundary.
          TooLongError: a text longer than the model's positions, unless `truncate`.

        >>> encoder.encode(["Freiheit und Gleichheit"]).n_tokens.tolist()
        [4]
        """
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}.")
        batch_size = whole_number("batch_size", batch_size)
        merging = self.embedder.resolve(one_merging(goal, merging, FULL), scope="batch", merge_last=True)
        language_N = np.zeros(len(texts), np.int32)
        if not merging.is_static or language is not None:
            language_N = self.embedder.language_indices(language, len(texts))
        prefix = self.prefix if prefix is None else prefix
        cache = self.cache
        hits, misses = cache.counts_of_thread() if cache is not None else (0, 0)

        with timed(stopwatch, "tokenize"):
            if merging.is_static:
                subwords = self.text_encoder.encode_static(texts, prefix=prefix)
            else:
                subwords = self.text_encoder.encode(texts, boundary=merging.boundary, prefix=prefix)
        with timed(stopwatch, "merge"):
            tokens = merge_texts(
                subwords, merging, batch_size=batch_size, limit=self.config.max_tokens, truncate=truncate
            )
        pending, padded_tokens = [], 0
        for rows in group_by_length(tokens.lengths, batch_size):  # those that the model sees hold texts of like length
            with timed(stopwatch, "embed"):
                inputs, type_BT = self._inputs(tokens.take(rows), language_N[rows], is_static=merging.is_static)
            with timed(stopwatch, "model"):
                result = encode_batch(self.encoder, inputs, type_BT, pooling=pooling, normalize=normalize)
                pending.append((rows, result if stopwatch is None else jax.block_until_ready(result)))
            padded_tokens += inputs.mask_BT.size
            if on_progress is not None:
                on_progress(len(rows))
        with timed(stopwatch, "model"):
            embeddings_ND, hidden = _gather(pending, tokens.lengths, self.config.width, is_pooled=pooling != "none")
        hits_now, misses_now = cache.counts_of_thread() if cache is not None else (0, 0)
        return EncodedTexts(
            embeddings_ND=embeddings_ND,
            hidden=hidden,
            tokens=tokens,
            padded_tokens=padded_tokens,
            cache_hits=hits_now - hits,
            cache_misses=misses_now - misses,
        )

    def _inputs(
        self, tokens: RaggedTokens, language_B: Int32[np.ndarray, "texts"], *, is_static: bool
    ) -> tuple[TokenInputs, Int32[AnyArray, "B T"]]:
        """The tokens of a batch as the model reads them, padded to buckets, and which text of a pair each is of."""
        n_batch = bucket(len(tokens), self._batch_buckets())
        length = min(bucket(max(1, int(tokens.lengths.max()))), self.config.max_tokens)
        inputs = self.embedder.inputs(tokens, language_B, n_batch=n_batch, length=length, is_static=is_static)
        type_M = tokens.subwords.type_N[tokens.start_M]
        type_BT = pad_ragged(type_M, tokens.offsets, n_batch, length, padding=0)
        return inputs.place(self.mesh), shard_batch(type_BT, self.mesh)

    def _batch_buckets(self) -> tuple[int, ...]:
        """Batch sizes that the mesh divides."""
        return divided_buckets(BATCH_BUCKETS, data_parts(self.mesh))


def default_prompt(folder: Path) -> str:
    """What a model expects before each text, where its folder says so in the sentence-transformers way."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return ""
    config = read_json(path, ConfigError, "mend it, or delete it")
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name") or ""
    prompt = prompts.get(name, "") if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        raise ConfigError(f"{path} is not a JSON object with prompts that are texts: mend it, or delete it.")
    return prompt


@partial(jax.jit, static_argnames=("pooling", "normalize"))
def encode_batch(
    encoder: Encoder,
    inputs: TokenInputs[Array],
    type_BT: Int32[Array, "B T"],
    *,
    pooling: Pooling,
    normalize: bool,
) -> Float[Array, "B *T D"]:
    """Source or predicted embeddings, the encoder, pooling."""
    mask_BT = inputs.mask_BT
    hidden_BTD = encode(encoder, embed_tokens(encoder.word_embeddings[...], inputs), mask_BT, type_BT)
    if pooling == "none":
        return hidden_BTD
    pooled_BD = mean_pool(hidden_BTD, mask_BT) if pooling == "mean" else hidden_BTD[:, 0]
    return l2_normalize(pooled_BD) if normalize else pooled_BD


def _gather(pending, lengths: Int[np.ndarray, "texts"], width: int, *, is_pooled: bool):
    """Waits for the batches and puts each text's result in its place: pooled rows, or hidden states."""
    if is_pooled:
        embeddings_ND = np.zeros((len(lengths), width), np.float32)
        for rows, pooled_BD in pending:
            embeddings_ND[rows] = np.asarray(pooled_BD, np.float32)[: len(rows)]
        return embeddings_ND, None
    hidden = [np.zeros((0, width), np.float32)] * len(lengths)
    for rows, hidden_BTD in pending:
        for row, hidden_TD in zip(rows, np.asarray(hidden_BTD, np.float32), strict=False):
            hidden[row] = hidden_TD[: lengths[row]]
    return None, hidden


COMPILED_STEPS = (encode_batch, *EMBEDDING_STEPS)
"""Everything that `DynamicEncoder.encode` compiles by name."""
