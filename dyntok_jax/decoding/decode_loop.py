"""Generation: read the prompts, choose their first tokens, then one jitted loop over the key/value cache.

The loop ends by itself when every sequence is done. Control also returns to the host every few steps, which checks for
stop strings and passes text on. The result does not depend on where that happens: the state holds everything.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int32, Key, UInt32

from dyntok_jax.decoding.sampling import Sampling, choose_tokens, is_bad_row, step_keys
from dyntok_jax.decoding.vocabularies import OWN, Vocabulary
from dyntok_jax.models import Decoder, KeyValueCache, empty_cache, extend, prefill
from dyntok_jax.sharding import constrain_cache, constrain_hidden
from dyntok_jax.types import AnyArray

NO_TOKEN = -1
"""The id that `advance` returns where a sequence had already ended."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Limits:
    """When sequences end.

    Attributes:
      end_E: ids that end a sequence; padded with -1.
      max_tokens_B: the most tokens that each sequence may be given, the ending one included; 0 for padding rows.

    >>> Limits(end_E=np.array(decoder.end_ids, np.int32), max_tokens_B=np.array([128, 0], np.int32))
    Limits(end_E=array([1], dtype=int32), max_tokens_B=array([128,   0], dtype=int32))
    """

    end_E: Int32[AnyArray, "E"]
    max_tokens_B: Int32[AnyArray, "B"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GenerationState:
    """The state of generation between two steps.

    Attributes:
      cache: keys and values of everything read.
      token_B: the last token chosen, not read yet.
      n_chosen_B: how many tokens have been chosen, the last one included.
      is_done_B: sequences that have ended.
      is_bad_B: sequences that ended because their logits were NaN or infinite.
      seen_BV: subwords of the prompt and of what was chosen; None where no sequence has a repetition penalty.
      key_B: the random key of each sequence.

    >>> state = start_generation()  # reads a prompt of three subwords
    >>> state.cache.length_B.tolist(), state.n_chosen_B.tolist(), state.is_done_B.tolist()
    ([3], [1], [False])
    """

    cache: KeyValueCache
    token_B: Int32[Array, "B"]
    n_chosen_B: Int32[Array, "B"]
    is_done_B: Bool[Array, "B"]
    is_bad_B: Bool[Array, "B"]
    seen_BV: Bool[Array, "B V"] | None
    key_B: Key[Array, "B"]


def last_token(values_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """The value at the last token of each sequence."""
    last_B = jnp.maximum(mask_BT.sum(axis=1, dtype=jnp.int32) - 1, 0)
    return jnp.take_along_axis(values_BTD, last_B[:, None, None], axis=1)[:, 0]


@partial(jax.jit, static_argnames=("capacity", "chunk", "last_chunk", "mesh"))
def start(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    seen_BV: Bool[Array, "B V"] | None,
    key_B: Key[Array, "B"],
    sampling: Sampling,
    limits: Limits,
    step_BT: Int32[Array, "B T"] | None = None,
    *,
    vocabulary: Vocabulary = OWN,
    capacity: int,
    chunk: int,
    last_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> GenerationState:
    """Reads the prompts and chooses the first token of each.

    Args:
      model: the parameters.
      embeddings_BTD: word embeddings of the prompts; T is a multiple of `chunk`.
      mask_BT: True for tokens; padding is on the right.
      seen_BV: subwords of the prompts, where a repetition penalty needs them.
      key_B: one key a sequence.
      sampling: how tokens are chosen.
      limits: when sequences end.
      step_BT: subwords of each token, for positions that count subwords, here and in what follows.
      vocabulary: the candidates; by default the model's own vocabulary. All ids, those of `limits.end_E` too, are ids
        of this vocabulary.
      capacity: slots of the cache; at least the longest prompt and its `max_tokens_B` together.
      chunk: tokens of the prompts read at a time.
      last_chunk: the same at the end of prompts, see `prefill`.
      mesh: shards the cache by the rules in `sharding.py`.

    >>> from dyntok_jax.decoding import SamplingConfig, sampling_of
    >>> from dyntok_jax.models import embed_ids
    >>> prompts_BTD = embed_ids(decoder.decoder, jnp.array([[300, 301, 302]]))
    >>> key_B = sequence_keys(np.array([0], np.uint32), np.array([0], np.uint32))
    >>> limits = Limits(np.array(decoder.end_ids, np.int32), np.array([8], np.int32))
    >>> state = start(decoder.decoder, prompts_BTD, jnp.ones((1, 3), bool), None, key_B,
    ...     sampling_of([SamplingConfig()]), limits, capacity=16, chunk=3)
    >>> state.n_chosen_B.tolist()
    [1]
    """
    cache = constrain_cache(empty_cache(model, len(mask_BT), capacity, counts_subwords=step_BT is not None), mesh)
    hidden_BTD, cache = prefill(model, embeddings_BTD, mask_BT, cache, step_BT, chunk=chunk, last_chunk=last_chunk)
    n_batch = len(mask_BT)
    state = GenerationState(
        cache=constrain_cache(cache, mesh),
        token_B=jnp.zeros(n_batch, jnp.int32),
        n_chosen_B=jnp.zeros(n_batch, jnp.int32),
        is_done_B=jnp.asarray(limits.max_tokens_B) <= 0,
        is_bad_B=jnp.zeros(n_batch, bool),
        seen_BV=seen_BV,
        key_B=key_B,
    )
    return _choose(model, vocabulary, state, last_token(hidden_BTD, mask_BT), sampling, limits)


@partial(jax.jit, static_argnames=("size", "mesh"), donate_argnames=("state",))
def advance(
    model: Decoder,
    state: GenerationState,
    sampling: Sampling,
    limits: Limits,
    n_steps: Int32[Array, ""],
    *,
    vocabulary: Vocabulary = OWN,
    size: int,
    mesh: Mesh | None = None,
) -> tuple[GenerationState, Int32[Array, "B size"]]:
    """Reads the last tokens and chooses the next ones, `n_steps` times or until every sequence is done.

    Args:
      model: the parameters.
      state: from `start` or the last call; its buffers are donated.
      sampling: how tokens are chosen.
      limits: when sequences end.
      n_steps: how many, at most `size`. It is an array, so another number compiles nothing.
      vocabulary: as for `start`.
      size: width of the result.
      mesh: over which parameters and cache are sharded.

    Returns:
      The state, and the tokens chosen in this call, `NO_TOKEN` where a sequence was done.

    >>> state, ids_BO = advance(decoder.decoder, start_generation(), greedy, limits, np.int32(4), size=4)
    >>> ids_BO.shape, state.n_chosen_B.tolist()
    ((1, 4), [5])
    """
    chunk_BO = jnp.full((len(state.token_B), size), NO_TOKEN, jnp.int32)

    def is_unfinished(carry):
        step, state, _ = carry
        return (step < jnp.minimum(n_steps, size)) & ~state.is_done_B.all()

    def one_step(carry):
        step, state, chunk_BO = carry
        is_active_B = ~state.is_done_B
        embeddings_BD = vocabulary.embed(model, state.token_B).astype(model.word_embeddings.dtype)
        embeddings_B1D = constrain_hidden(embeddings_BD[:, None], mesh)
        step_B1 = None if state.cache.skipped_B is None else vocabulary.count_subwords(model, state.token_B)[:, None]
        hidden_B1D, cache = extend(model, embeddings_B1D, is_active_B[:, None], state.cache, step_B1)
        hidden_BD = constrain_hidden(hidden_B1D, mesh)[:, 0]
        state = _choose(model, vocabulary, replace(state, cache=cache), hidden_BD, sampling, limits)
        chosen_B1 = jnp.where(is_active_B, state.token_B, NO_TOKEN)[:, None]
        return step + 1, state, lax.dynamic_update_slice_in_dim(chunk_BO, chosen_B1, step, axis=1)

    _, state, chunk_BO = lax.while_loop(is_unfinished, one_step, (jnp.zeros((), jnp.int32), state, chunk_BO))
    return state, chunk_BO


def _choose(
    model: Decoder,
    vocabulary: Vocabulary,
    state: GenerationState,
    hidden_BD: Float[Array, "B D"],
    sampling: Sampling,
    limits: Limits,
) -> GenerationState:
    """The next token of every sequence that is not done; the others keep theirs."""
    is_active_B = ~state.is_done_B
    ids_BK, logits_BK, seen_BK = vocabulary.propose(model, hidden_BD, state.seen_BV)
    token_B = choose_tokens(logits_BK, seen_BK, step_keys(state.key_B, state.n_chosen_B), sampling)
    if ids_BK is not None:
        token_B = jnp.take_along_axis(ids_BK, token_B[:, None], axis=1)[:, 0]
    token_B = jnp.where(is_active_B, token_B, state.token_B)
    is_bad_B = state.is_bad_B | (is_active_B & is_bad_row(logits_BK))
    n_chosen_B = state.n_chosen_B + is_active_B.astype(jnp.int32)
    is_end_B = (token_B[:, None] == limits.end_E[None, :]).any(axis=1)
    return replace(
        state,
        token_B=token_B,
        n_chosen_B=n_chosen_B,
        is_done_B=state.is_done_B | is_end_B | (n_chosen_B >= limits.max_tokens_B) | is_bad_B,
        is_bad_B=is_bad_B,
        seen_BV=None if state.seen_BV is None else vocabulary.mark_seen(state.seen_BV, token_B, is_active_B),
    )


@jax.jit
def sequence_keys(seed_B: UInt32[Array, "B"], digest_B: UInt32[Array, "B"]) -> Key[Array, "B"]:
    """One key a sequence, from a seed and a hash of its prompt.

    Equal prompts with equal seeds get equal keys, and different prompts independent ones, whatever their row.

    >>> key_B = sequence_keys(np.array([0, 0, 1], np.uint32), np.array([7, 7, 7], np.uint32))
    >>> bool(key_B[0] == key_B[1]), bool(key_B[0] == key_B[2])
    (True, False)
    """
    return jax.vmap(lambda seed, digest: jax.random.fold_in(jax.random.key(seed), digest))(seed_B, digest_B)


@partial(jax.jit, donate_argnames=("state",))
def stop_sequences(state: GenerationState, is_stopped_B: Bool[Array, "B"]) -> GenerationState:
    """Ends sequences whose text has reached a stop string."""
    return replace(state, is_done_B=state.is_done_B | is_stopped_B)
