"""One batch of prompts through a decoder: padded to buckets, moved to the device, read, and continued or scored.

The buckets are few, and prompts are padded to the length of the cache, so any set of prompts compiles a handful of
programs. The time to compute depends on the prompts, not on the padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int, Int32, UInt32

from dyntok_jax.decoding.decode_loop import (
    NO_TOKEN,
    GenerationState,
    Limits,
    advance,
    sequence_keys,
    start,
    stop_sequences,
)
from dyntok_jax.decoding.prompt_entries import PromptEntries, prompt_vocabulary
from dyntok_jax.decoding.prompts import ReadPrompts
from dyntok_jax.decoding.sampling import SamplingConfig, sampling_of
from dyntok_jax.decoding.scoring import EmbeddedTokens, score_continuations
from dyntok_jax.decoding.text_stream import TextStream
from dyntok_jax.decoding.vocabularies import LargeVocabulary, OwnVocabulary, Vocabulary
from dyntok_jax.embedding import COMPILED_STEPS as EMBEDDING_STEPS, TokenEmbedder, TokenInputs, embed_tokens
from dyntok_jax.errors import NotANumberError, TooLongError
from dyntok_jax.merging import common_beginning
from dyntok_jax.models import Decoder, DecoderConfig
from dyntok_jax.sharding import data_parts, shard_batch
from dyntok_jax.text import (
    CAPACITY_BUCKETS,
    CONTINUATION_BUCKETS,
    DECODER_BATCH_BUCKETS,
    bucket,
    divided_buckets,
    pad_ragged,
)

PREFILL_CHUNK, LAST_PREFILL_CHUNK = 256, 128
"""Tokens of a prompt that are read at a time, and the same for the rest after its last whole chunk."""
SHARED_CHUNK = 64
"""The same where prompts share their beginning, which is then read once; and the fewest tokens to do so for."""
CHUNK = 32
"""The most steps of generation before control returns to the host."""
_BAD_NUMBERS = (
    "The model's logits after prompt {prompt} are NaN or infinite: its weights may be damaged, or its numbers overflow "
    "their dtype (try float32)."
)


@dataclass(frozen=True)
class BatchDecoder:
    """A decoder's parameters, and how its batches are padded and sharded.

    Attributes:
      config: of the decoder.
      model: its parameters.
      embedder: predicts rows for new tokens.
      end_ids: tokens that end a text.
      mesh: over which parameters, cache and batches are sharded; None for the default device.
    """

    config: DecoderConfig
    model: Decoder
    embedder: TokenEmbedder
    end_ids: tuple[int, ...]
    mesh: Mesh | None

    def check_positions(self, read: ReadPrompts, prompt: int, n_more: int, what: str) -> None:
        """Raises TooLongError if a prompt and the tokens after it exceed the model's positions."""
        n_prompt = int(read.n_positions[prompt])
        counted = "tokens after merging" if read.positions == "tokens" else "subwords, which positions count here,"
        if n_prompt + n_more > self.config.max_positions:
            raise TooLongError(
                f"Prompt {prompt} has {n_prompt} {counted} and {n_more} more {what}, but the model has "
                f"positions for {self.config.max_positions}: shorten the prompt, merge more, or ask for less."
            )

    def write(
        self,
        read: ReadPrompts,
        rows: Int[np.ndarray, "rows"],
        streams: Sequence[TextStream],
        max_tokens: int,
        sampling: SamplingConfig,
        seed_B: UInt32[np.ndarray, "rows"],
        chunk: int,
        vocabulary: LargeVocabulary | Sequence[PromptEntries] | None = None,
    ) -> Iterator[dict[int, str]]:
        """Generates for a batch of prompts.

        Args:
          read: all prompts.
          rows: those of the batch.
          streams: of all prompts, to take the tokens.
          max_tokens: the most tokens a text.
          sampling: how tokens are chosen.
          seed_B: one a row.
          chunk: steps before control returns to the host, at most `CHUNK`.
          vocabulary: to generate in: a large one, or the model's own plus the tokens of all prompts, or its own alone.

        Yields:
          After every chunk, the new text of each row's stream.

        Raises:
          NotANumberError: the logits are NaN or infinite.
        """
        n_batch = bucket(len(rows), self._batch_buckets())
        capacity = self._capacity(int(read.n_tokens[rows].max()) + max_tokens)
        padded = partial(np.pad, pad_width=(0, n_batch - len(rows)))
        digest_B = np.array([crc32(read.texts[int(row)].encode()) for row in rows], np.uint32)
        limits = Limits(
            end_E=np.array(self.end_ids or (NO_TOKEN,), np.int32),
            max_tokens_B=self._shard(padded(np.full(len(rows), max_tokens, np.int32))),
        )
        settings = self._shard(sampling_of([sampling] * n_batch))
        inputs = self._inputs(read, rows, n_batch, capacity)
        candidates = self._vocabulary(vocabulary, read, rows, inputs)
        state = _start(
            self.model,
            candidates,
            inputs.shard(self.mesh),
            self._shard(self._seen(read, rows, n_batch)) if sampling.repetition_penalty != 1 else None,
            sequence_keys(padded(seed_B), padded(digest_B)),
            settings,
            limits,
            capacity=capacity,
            mesh=self.mesh,
        )
        chosen_BO = np.asarray(state.token_B)[:, None]
        while True:
            self._check_numbers(state, rows)
            pieces = {}
            for row, ids in zip(rows.tolist(), chosen_BO, strict=False):
                pieces[row] = streams[row].push(ids[ids != NO_TOKEN].tolist())
            is_done_B = np.asarray(state.is_done_B)
            is_stopped_B = padded(np.array([streams[row].finish == "stop" for row in rows]))
            is_over = (is_done_B | is_stopped_B)[: len(rows)].all()
            if is_over:
                for row in rows.tolist():
                    pieces[row] += streams[row].close()
            yield pieces
            if is_over:
                return
            if (is_stopped_B & ~is_done_B).any():
                state = stop_sequences(state, self._shard(is_stopped_B))
            state, chosen_BO = advance(
                self.model,
                state,
                settings,
                limits,
                np.int32(chunk),
                vocabulary=candidates,
                size=CHUNK,
                mesh=self.mesh,
            )
            chosen_BO = np.asarray(chosen_BO)

    def score(
        self, read: ReadPrompts, rows: Int[np.ndarray, "rows"], owner_B: Int32[np.ndarray, "B"], ids: list[list[int]]
    ) -> tuple[Float32[np.ndarray, "B O"], Int32[np.ndarray, "B O"]]:
        """Scores continuations of a batch of prompts.

        Args:
          read: all prompts.
          rows: those of the batch.
          owner_B: the prompt of each continuation, one of `rows`.
          ids: the continuations, in the model's own vocabulary.

        Returns:
          Natural logarithms of the probabilities, and the most probable token at each place; padded.

        Raises:
          TooLongError: a prompt and its continuation exceed the model's positions.
          NotANumberError: the logits are NaN or infinite.
        """
        lengths_B = np.array([len(of_text) for of_text in ids])
        for owner, length in zip(owner_B.tolist(), lengths_B.tolist(), strict=True):
            # the last token of a continuation is scored, but never read
            self.check_positions(read, owner, max(length - 1, 0), "to read")
        n_batch = bucket(len(ids), self._batch_buckets())
        length = bucket(max(1, int(lengths_B.max())), CONTINUATION_BUCKETS)
        ids_M = np.fromiter(chain.from_iterable(ids), np.int32, lengths_B.sum())
        lay_out = partial(pad_ragged, offsets=np.append(0, np.cumsum(lengths_B)), n_batch=n_batch, length=length)
        position = {row: at for at, row in enumerate(rows.tolist())}
        prompt_B = np.array([position[owner] for owner in owner_B.tolist()], np.int32)
        capacity = self._capacity(int(read.n_tokens[rows].max()) + int(lengths_B.max()))
        shared, prompts = self._shared_inputs(read, rows, capacity)
        log_BO, best_BO = _score(
            self.model,
            shared,
            prompts,
            self._shard(np.pad(prompt_B, (0, n_batch - len(ids)))),
            self._shard(lay_out(ids_M, padding=0)),
            self._shard(lay_out(np.ones(len(ids_M), bool), padding=False)),
            self._own,
            capacity=capacity,
            mesh=self.mesh,
        )
        log_BO, best_BO = np.asarray(log_BO)[: len(ids)], np.asarray(best_BO)[: len(ids)]
        if not np.isfinite(log_BO).all():
            bad = int(owner_B[~np.isfinite(log_BO).all(axis=1)][0])
            raise NotANumberError(_BAD_NUMBERS.format(prompt=bad))
        return log_BO, best_BO

    @cached_property
    def _own(self) -> OwnVocabulary:
        return jax.tree.map(jnp.asarray, OwnVocabulary.of(self.embedder.tokenizer, self.config.vocab_size))

    def _vocabulary(
        self,
        vocabulary: LargeVocabulary | Sequence[PromptEntries] | None,
        read: ReadPrompts,
        rows: Int[np.ndarray, "rows"],
        inputs: TokenInputs[np.ndarray],
    ) -> Vocabulary:
        """The vocabulary that a batch is generated in."""
        if vocabulary is None or isinstance(vocabulary, LargeVocabulary):
            return self._own if vocabulary is None else vocabulary
        output_UD = None
        if self.model.output_embeddings is not None:
            table = self.model.output_embeddings[...]
            output_UD = self.embedder.new_output_rows(read.tokens.take(rows), read.language_N[rows], table)
        texts = [read.tokens[row] for row in rows.tolist()]
        entries = [vocabulary[row] for row in rows.tolist()]
        return replace(prompt_vocabulary(entries, texts, inputs, output_UD, self.mesh), own=self._own)

    def _inputs(
        self,
        read: ReadPrompts,
        rows: Int[np.ndarray, "rows"],
        n_batch: int,
        capacity: int,
        begin: int = 0,
        end: int | None = None,
    ) -> TokenInputs[np.ndarray]:
        """The prompts of a batch as the model reads them, on the host; padded to the cache: one program serves all."""
        length = -(-capacity // PREFILL_CHUNK) * PREFILL_CHUNK
        return self.embedder.inputs(
            read.tokens.take(rows, begin, end),
            read.language_N[rows],
            n_batch=n_batch,
            length=length,
            n_rows=(length, 4 * length),
            is_static=read.is_static,
            positions=read.positions,
        )

    def _shared_inputs(
        self, read: ReadPrompts, rows: Int[np.ndarray, "rows"], capacity: int
    ) -> tuple[TokenInputs | None, TokenInputs]:
        """The tokens that all prompts of a batch begin with, if these are many; and the prompts without them."""
        n_batch, n_shared = bucket(len(rows), self._batch_buckets()), 0
        if (read.language_N[rows] == read.language_N[rows[0]]).all():
            n_shared = common_beginning(read.tokens.take(rows))
        if n_shared < SHARED_CHUNK:
            return None, self._inputs(read, rows, n_batch, capacity).shard(self.mesh)
        alike = np.repeat(rows[:1], data_parts(self.mesh))
        shared = self._inputs(read, alike, len(alike), capacity, end=n_shared)
        rest = self._inputs(read, rows, n_batch, capacity, begin=n_shared)
        return shared.shard(self.mesh), rest.shard(self.mesh)

    def _seen(self, read: ReadPrompts, rows: Int[np.ndarray, "rows"], n_batch: int) -> Bool[np.ndarray, "B V"]:
        """Which subwords each prompt has; a merged token counts as its constituents."""
        seen_BV = np.zeros((n_batch, self.config.vocab_size), bool)
        for at, row in enumerate(rows.tolist()):
            ids = read.tokens[row].subword_L
            seen_BV[at, ids[ids < self.embedder.tokenizer.n_own]] = True
        return seen_BV

    def _check_numbers(self, state: GenerationState, rows: Int[np.ndarray, "rows"]) -> None:
        is_bad_B = np.asarray(state.is_bad_B)[: len(rows)]
        if is_bad_B.any():
            raise NotANumberError(_BAD_NUMBERS.format(prompt=int(rows[is_bad_B][0])))

    def _capacity(self, needed: int) -> int:
        return min(bucket(needed, CAPACITY_BUCKETS), self.config.max_positions)

    def _shard(self, values: Any) -> Any:
        return shard_batch(values, self.mesh)

    def _batch_buckets(self) -> tuple[int, ...]:
        """Batch sizes that the mesh divides."""
        return divided_buckets(DECODER_BATCH_BUCKETS, data_parts(self.mesh))


@partial(jax.jit, static_argnames=("capacity", "mesh"))
def _start(model, vocabulary, inputs, seen_BV, key_B, sampling, limits, *, capacity, mesh) -> GenerationState:
    embeddings_BTD = embed_tokens(model.word_embeddings[...], inputs)
    return start(
        model,
        embeddings_BTD,
        inputs.mask_BT,
        seen_BV,
        key_B,
        sampling,
        limits,
        inputs.step_BT,
        vocabulary=vocabulary,
        capacity=capacity,
        # one loop instead of two compiles in half the time
        chunk=LAST_PREFILL_CHUNK if capacity <= PREFILL_CHUNK else PREFILL_CHUNK,
        last_chunk=None if capacity <= PREFILL_CHUNK else LAST_PREFILL_CHUNK,
        mesh=mesh,
    )


@partial(jax.jit, static_argnames=("capacity", "mesh"))
def _score(model, shared, prompts, prompt_B, continuation_BO, mask_BO, vocabulary, *, capacity, mesh):
    def embed(inputs: TokenInputs[Array]) -> EmbeddedTokens:
        return EmbeddedTokens(embed_tokens(model.word_embeddings[...], inputs), inputs.mask_BT, inputs.step_BT)

    return score_continuations(
        model,
        embed(prompts),
        prompt_B,
        continuation_BO,
        mask_BO,
        shared=None if shared is None else embed(shared),
        vocabulary=vocabulary,
        capacity=capacity,
        chunk=PREFILL_CHUNK if shared is None else SHARED_CHUNK,
        mesh=mesh,
    )


COMPILED_STEPS = (_start, advance, sequence_keys, stop_sequences, *EMBEDDING_STEPS)
"""Everything that `DynamicDecoder.generate` compiles by name."""
