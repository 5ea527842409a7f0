"""`DynamicEncoder`: a trained encoder with dynamic tokenization."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Int, Int32

from dyntok_jax.embedding import (
    COMPILED_STEPS as EMBEDDING_STEPS,
    DEFAULT_CACHE_ROWS,
    EmbeddingCache,
    TokenEmbedder,
    TokenInputs,
)
from dyntok_jax.encoding.device_runs import DeviceRuns
from dyntok_jax.encoding.encoded_texts import EncodedTexts, Timings, timed
from dyntok_jax.encoding.model_step import encode_batch
from dyntok_jax.encoding.on_device import encode_subwords
from dyntok_jax.encoding.sentence_modules import SentenceModules
from dyntok_jax.errors import InputError, NotANumberError
from dyntok_jax.files import load_model
from dyntok_jax.merging import RaggedTokens, fit_tokens, merge_texts, tokens_of_lengths
from dyntok_jax.models import Encoder, EncoderConfig, SentenceHead
from dyntok_jax.options import (
    AUTO,
    DEFAULT_MODEL,
    FULL,
    Goal,
    Merging,
    Pooling,
    SpecialTokens,
    SurfaceMode,
    check_choice,
    check_list,
    one_merging,
    whole_number,
)
from dyntok_jax.sharding import data_parts, shard_batch
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
    """An encoder, its tokenizer, and the embedder of new tokens: a hypernetwork, or FVT without one.

    Attributes:
      config: of the encoder.
      encoder: its parameters.
      text_encoder: splits texts into subwords.
      embedder: predicts rows for new tokens, and caches them.
      special_tokens: how special tokens written in texts are read.
      prefix: text that the model expects before each text (`query: `).
      sentence: how the model was trained to make sentence embeddings of hidden states, and its prompts.
      mesh: over which parameters and batches are sharded; None for the default device.

    >>> encoder = DynamicEncoder.load(encoder_folder, hypernet_folder)
    >>> texts = encoder.encode(["Freiheit und Gleichheit", "All human beings are born free."])
    >>> texts.n_subwords.tolist(), texts.n_tokens.tolist(), texts.embeddings_ND.shape
    ([11, 20], [4, 7], (2, 32))
    """

    def __init__(
        self,
        config: EncoderConfig,
        encoder: Encoder,
        embedder: TokenEmbedder,
        *,
        prefix: str = "",
        sentence: SentenceModules | None = None,
        special_tokens: SpecialTokens = "auto",
        mesh: Mesh | None = None,
    ):
        self.config, self.encoder, self.embedder = config, encoder, embedder
        self.text_encoder = TextEncoder(embedder.tokenizer)
        self.sentence = SentenceModules() if sentence is None else sentence
        self.special_tokens: SpecialTokens = check_choice("special_tokens", special_tokens, get_args(SpecialTokens))
        self.prefix, self.mesh = prefix, mesh

    @property
    def tokenizer(self) -> ByteLevelTokenizer:
        """The model's tokenizer and its byte-level form."""
        return self.embedder.tokenizer

    @property
    def reader(self) -> TextEncoder:
        """What texts go through: `text_encoder`, or its twin, which reads special tokens as text."""
        return self.text_encoder.twin if self.special_tokens == "text" else self.text_encoder

    @property
    def max_tokens(self) -> int:
        """The longest text in tokens: as the model declares, and no longer than its positions."""
        return min(self.config.max_tokens, self.sentence.max_tokens or self.config.max_tokens)

    def prompt(self, name: str) -> str:
        """The prompt that the model declares by this name, such as `query` or `document`.

        Raises:
          InputError: it declares none of this name.
        """
        if name not in self.sentence.prompts:
            known = ", ".join(self.sentence.prompts) or "none"
            raise InputError(f"The model declares no prompt {name!r} (it has: {known}): give its text as prefix.")
        return self.sentence.prompts[name]

    @property
    def cache(self) -> EmbeddingCache | None:
        """Embeddings predicted so far on the host; None under FVT. Assign a loaded cache to start with its embeddings.

        `encode(on_device=True)` has a cache of its own, on the device.
        """
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
        adapter: str | Path | None = None,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        keep_normalizer: bool = True,
        special_tokens: SpecialTokens = "auto",
        surface: SurfaceMode = "constituents",
        predict_all: bool = False,
        cache_rows: int = DEFAULT_CACHE_ROWS,
    ) -> "DynamicEncoder":
        """Loads a model, its tokenizer and a hypernetwork.

        Args:
          model: a folder, a Hub id, or an offline package's name (`e5-small`).
          hypernet: a folder or Hub id of a ZeTT hypernetwork; `auto` for the one that comes with the model, if any;
            None for FVT.
          adapter: a folder of peft with a LoRA adapter of the model, which is multiplied into its weights.
          dtype: of the parameters and the computation; results are always float32.
          mesh: shards the parameters by the rules in `sharding.py`, and batches over `data`.
          keep_normalizer: normalise text as in the model's training; ZeTT and the paper's reference do not.
          special_tokens: how special tokens written in texts (`<mask>`) are read: as such (`special`, and `auto`), as
            the model's own tokenizer reads them, or as `text`.
          surface: the surface form of a token that the hypernetwork reads.
          predict_all: predict the embeddings of single subwords too, as the paper does.
          cache_rows: the most embeddings kept, on the host and, with `encode(on_device=True)`, on the device as well.

        Raises:
          ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: see `hub`, `convert`, `text`; a pooling or
            another step to sentence embeddings that the model declares and that is not supported is a ConfigError.
        """
        loaded = load_model(
            model,
            hypernet,
            adapter=adapter,
            kind="encoder",
            dtype=dtype,
            mesh=mesh,
            keep_normalizer=keep_normalizer,
        )
        embedder = TokenEmbedder(
            loaded.tokenizer,
            loaded.parameters.word_embeddings[...],
            loaded.hypernet,
            surface=surface,
            predict_all=predict_all,
            cache_rows=cache_rows,
        )
        sentence = SentenceModules.load(loaded.folder, loaded.tokenizer, loaded.config.width)
        prefix = sentence.default_prompt
        return cls(
            loaded.config,
            loaded.parameters,
            embedder,
            prefix=prefix,
            sentence=sentence,
            special_tokens=special_tokens,
            mesh=mesh,
        )

    def encode(
        self,
        texts: Sequence[Text],
        *,
        goal: Goal | None = FULL,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        prefix: str | None = None,
        prompt_name: str | None = None,
        pooling: Pooling = "auto",
        normalize: bool | Literal["auto"] = "auto",
        truncate_dim: int | None = None,
        batch_size: int = BATCH_BUCKETS[-1],
        truncate: bool = False,
        on_device: bool = False,
        on_progress: Callable[[int], None] | None = None,
        stopwatch: Timings | None = None,
    ) -> EncodedTexts:
        """Encodes texts with dynamic tokenization, or statically.

        Args:
          texts: strings, pairs (tuples) or pre-split words (lists).
          goal: when merging stops; None is static tokenization: the model's own tokenizer and ids.
          merging: all merging options, instead of `goal`; by default the texts of a batch are merged together, up to
            whole words.
          language: code of the texts' language, one for all or one each; only for multilingual hypernetworks.
          prefix: put before each text; by default the one that the model expects.
          prompt_name: name of a prompt that the model declares, `query` or `document`, to take as the prefix.
          pooling: how hidden states become an embedding (see `options.Pooling`); `auto` as the model's folder declares,
            the mean if it declares nothing; `none` for hidden states.
          normalize: scale embeddings to length 1; `auto` as the folder declares, yes if it declares nothing.
          truncate_dim: keep only so many leading dimensions, before scaling, of a model trained for that (Matryoshka).
          batch_size: texts a batch.
          truncate: cut texts that are longer, after merging, than the model's positions.
          on_device: merge, embed and encode in one program on the device (see `on_device.py`): the same results, for
            machines whose host is slower than their device. Not for merge lists or retokenized surface forms.
          on_progress: called with the number of texts of each batch sent to the device; with `on_device`, done there.
          stopwatch: records the seconds of each stage; encoding then waits for each batch, which it does not otherwise.

        Returns:
          Embeddings or hidden states in float32, with tokens and counts.

        Raises:
          InputError: invalid texts, language or options, or a merge list of another tokenizer or boundary.
          TooLongError: a text has more tokens than the model has positions, unless `truncate`.
          NotANumberError: the model or the hypernetwork computes NaN or infinity.

        >>> encoder.encode(["Freiheit und Gleichheit"]).n_tokens.tolist()
        [4]
        """
        check_list("texts", texts)
        check_choice("pooling", pooling, get_args(Pooling))
        batch_size = whole_number("batch_size", batch_size)
        head = None if pooling == "none" else self._head(pooling, normalize, truncate_dim)
        merging = self.embedder.resolve(one_merging(goal, merging, FULL), scope="batch", merge_last=True)
        language_N = np.zeros(len(texts), np.int32)
        if not merging.is_static or language is not None:
            language_N = self.embedder.language_indices(language, len(texts))
        if prefix is not None and prompt_name is not None:
            raise InputError("Give prefix, the text itself, or prompt_name, the name of one of the model's: not both.")
        prefix = self.prompt(prompt_name) if prompt_name is not None else self.prefix if prefix is None else prefix
        cache = self.cache
        hits, misses = cache.counts_of_thread() if cache is not None else (0, 0)

        with timed(stopwatch, "tokenize"):
            if self.special_tokens == "text":
                self.text_encoder.special_names.check_free([prefix, texts])
            if merging.is_static:
                subwords = self.reader.encode_static(texts, prefix=prefix)
            else:
                subwords = self.reader.encode(texts, boundary=merging.boundary, prefix=prefix, protect=merging.protect)
        pending, padded_tokens, left = [], 0, np.arange(len(texts))
        if on_device:
            with timed(stopwatch, "model"):
                found = self._device_runs.encode(
                    subwords, language_N, merging, head, batch_size=batch_size, on_progress=on_progress
                )
                pending, padded_tokens = found.pending, found.padded_tokens
            if cache is not None:  # the device has a cache of its own
                hits, misses = hits - (found.n_forms - found.n_predicted), misses - found.n_predicted
            whole = tokens_of_lengths(subwords, found.length_N)
            tokens = fit_tokens(whole, merging, self.max_tokens, truncate)
            left = np.flatnonzero(tokens.lengths < whole.lengths)  # those that were cut are encoded below
        else:
            with timed(stopwatch, "merge"):
                tokens = merge_texts(subwords, merging, batch_size=batch_size, limit=self.max_tokens, truncate=truncate)
        # the model's batches have texts of similar length
        for rows in (left[some] for some in group_by_length(tokens.lengths[left], batch_size)):
            with timed(stopwatch, "embed"):
                inputs, type_BT = self._inputs(tokens.take(rows), language_N[rows], merging)
            with timed(stopwatch, "model"):
                result = encode_batch(self.encoder, inputs, type_BT, head)
                pending.append((rows, result if stopwatch is None else jax.block_until_ready(result)))
            padded_tokens += inputs.mask_BT.size
            if on_progress is not None and not on_device:
                on_progress(len(rows))
        with timed(stopwatch, "model"):
            width = self.config.width if head is None else head.width(self.config.width)
            embeddings_ND, hidden = _gather(pending, tokens.lengths, width, is_pooled=head is not None)
        hits_now, misses_now = cache.counts_of_thread() if cache is not None else (0, 0)
        return EncodedTexts(
            embeddings_ND=embeddings_ND,
            hidden=hidden,
            tokens=tokens,
            padded_tokens=padded_tokens,
            cache_hits=hits_now - hits,
            cache_misses=misses_now - misses,
        )

    @cached_property
    def _device_runs(self) -> DeviceRuns:
        return DeviceRuns(self.encoder, self.embedder, self.mesh)

    def _inputs(
        self, tokens: RaggedTokens, language_B: Int32[np.ndarray, "texts"], merging: Merging
    ) -> tuple[TokenInputs, Int32[AnyArray, "B T"]]:
        """The tokens of a batch as the model reads them, padded to buckets, and which text of a pair each is in."""
        n_batch = bucket(len(tokens), self._batch_buckets())
        length = min(bucket(max(1, int(tokens.lengths.max()))), self.config.max_tokens)
        inputs = self.embedder.inputs(
            tokens,
            language_B,
            n_batch=n_batch,
            length=length,
            is_static=merging.is_static,
            positions=merging.positions,
        )
        type_M = tokens.subwords.type_N[tokens.start_M]
        type_BT = pad_ragged(type_M, tokens.offsets, n_batch, length, padding=0)
        return inputs.shard(self.mesh), shard_batch(type_BT, self.mesh)

    def _head(self, pooling: Pooling, normalize: bool | Literal["auto"], dim: int | None) -> SentenceHead:
        """The model's own head, but for what the caller asks for."""
        head = self.sentence.head
        if pooling != "auto":
            if head.dense and len(head.poolings) != 1:
                raise InputError(
                    f"The model's dense layer takes {' and '.join(head.poolings)} together: leave pooling out."
                )
            head = replace(head, poolings=(pooling,))
        if dim is not None and not 1 <= dim <= head.width(self.config.width):
            raise InputError(f"truncate_dim must be from 1 to {head.width(self.config.width)}, got {dim}.")
        return replace(head, dim=dim, normalize=head.normalize if normalize == "auto" else normalize)

    def _batch_buckets(self) -> tuple[int, ...]:
        """Batch sizes that the mesh divides."""
        return divided_buckets(BATCH_BUCKETS, data_parts(self.mesh))


def _gather(pending, lengths: Int[np.ndarray, "texts"], width: int, *, is_pooled: bool):
    """Waits for the batches and puts each text's result in its place: pooled rows, or hidden states.

    Raises:
      NotANumberError: a result is NaN or infinite.
    """
    if is_pooled:
        embeddings_ND = np.zeros((len(lengths), width), np.float32)
        for rows, pooled_BD in pending:
            embeddings_ND[rows] = np.asarray(pooled_BD, np.float32)[: len(rows)]
        _check_finite(embeddings_ND)
        return embeddings_ND, None
    hidden = [np.zeros((0, width), np.float32)] * len(lengths)
    for rows, hidden_BTD in pending:
        for row, hidden_TD in zip(rows, np.asarray(hidden_BTD, np.float32), strict=False):
            hidden[row] = hidden_TD[: lengths[row]]
    _check_finite(hidden)
    return None, hidden


def _check_finite(of_texts: Sequence[np.ndarray] | np.ndarray) -> None:
    bad = next((row for row, values in enumerate(of_texts) if not np.isfinite(values).all()), None)
    if bad is not None:
        raise NotANumberError(
            f"What the model computes for text {bad} is NaN or infinite: its weights may be damaged, or the numbers "
            "too large for their dtype (try float32)."
        )


COMPILED_STEPS = (encode_batch, encode_subwords, *EMBEDDING_STEPS)
"""Everything that `DynamicEncoder.encode` compiles by name."""
