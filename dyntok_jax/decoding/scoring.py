"""Log-probabilities of texts that continue prompts; what prompts have in common is read once."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int32

from dyntok_jax.decoding.decode_loop import last_token
from dyntok_jax.decoding.vocabularies import OWN, OwnVocabulary
from dyntok_jax.models import Decoder, KeyValueCache, embed_ids, empty_cache, logits, prefill
from dyntok_jax.sharding import constrain_cache

POSITIONS = 32
"""Positions whose logits are in memory at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EmbeddedTokens:
    """Tokens as a decoder reads them.

    Attributes:
      embeddings_BTD: word embeddings; T is a multiple of the chunk that they are read in.
      mask_BT: True for tokens, padding on the right.
      step_BT: subwords of each token, for positions that count subwords; None for positions that count tokens.
    """

    embeddings_BTD: Float[Array, "B T D"]
    mask_BT: Bool[Array, "B T"]
    step_BT: Int32[Array, "B T"] | None = None


@partial(jax.jit, static_argnames=("capacity", "chunk", "mesh"))
def score_continuations(
    model: Decoder,
    prompts: EmbeddedTokens,
    prompt_B: Int32[Array, "B"],
    continuation_BO: Int32[Array, "B O"],
    mask_BO: Bool[Array, "B O"],
    *,
    shared: EmbeddedTokens | None = None,
    vocabulary: OwnVocabulary = OWN,
    capacity: int,
    chunk: int,
    mesh: Mesh | None = None,
) -> tuple[Float32[Array, "B O"], Int32[Array, "B O"]]:
    """The log-probability of every token of the continuations, given the prompt and the tokens before it.

    Args:
      model: the parameters.
      prompts: P prompts, or the rest of each after what they share; none is empty.
      prompt_B: which prompt each continuation follows.
      continuation_BO: ids in the model's own vocabulary; O is a multiple of `chunk`, or less than it.
      mask_BO: their tokens, padding on the right.
      shared: the tokens that all prompts begin with, in each of its rows alike.
      vocabulary: the model's own.
      capacity: slots of the cache; at least the longest prompt and continuation together.
      chunk: tokens read at a time.
      mesh: shards the caches by the rules in `sharding.py`.

    Returns:
      Natural logarithms, 0 for padding; and the most probable token at each place.
    """

    def read(tokens: EmbeddedTokens, cache: KeyValueCache) -> tuple[Float[Array, "B T D"], KeyValueCache]:
        cache = constrain_cache(cache, mesh)
        return prefill(model, tokens.embeddings_BTD, tokens.mask_BT, cache, tokens.step_BT, chunk=chunk)

    n_prompts = len(prompts.mask_BT)
    first = prompts if shared is None else shared
    cache = empty_cache(model, len(first.mask_BT), capacity, counts_subwords=first.step_BT is not None)
    hidden_PTD, cache = read(first, cache)
    if shared is not None:
        hidden_PTD, cache = read(prompts, cache.take(jnp.zeros(n_prompts, jnp.int32)))
    first_B1D = last_token(hidden_PTD, prompts.mask_BT)[prompt_B][:, None]
    # the last token of a continuation is scored, but never read: nothing follows it
    is_read_BO = jnp.pad(mask_BO[:, 1:], ((0, 0), (0, 1)))
    width = min(chunk, continuation_BO.shape[1])
    embeddings_BOD = embed_ids(model, continuation_BO)

    def read_continuations():
        of_prompts = constrain_cache(cache.take(prompt_B), mesh)
        return prefill(model, embeddings_BOD, is_read_BO, of_prompts, chunk=width)[0]

    # continuations of one token, such as letters, need no copies of the cache
    hidden_BOD = lax.cond(is_read_BO.any(), read_continuations, lambda: jnp.zeros_like(embeddings_BOD))
    before_BOD = jnp.concatenate([first_B1D, hidden_BOD[:, :-1]], axis=1)
    return target_log_probabilities(model, before_BOD, continuation_BO, mask_BO, vocabulary)


def target_log_probabilities(
    model: Decoder,
    before_BOD: Float[Array, "B O D"],
    target_BO: Int32[Array, "B O"],
    mask_BO: Bool[Array, "B O"],
    vocabulary: OwnVocabulary = OWN,
) -> tuple[Float32[Array, "B O"], Int32[Array, "B O"]]:
    """Log p(target | hidden state before it), and the most probable token, a few positions at a time.

    No more than `POSITIONS` × V logits a sequence are in memory; blocks that are all padding cost nothing.
    """
    width = min(POSITIONS, target_BO.shape[1])

    def score(index, found):
        log_BO, greedy_BO = found
        start = jnp.minimum(index * width, target_BO.shape[1] - width)
        before, target = (lax.dynamic_slice_in_dim(a, start, width, axis=1) for a in (before_BOD, target_BO))
        logits_BPV = logits(model, before)
        chosen_BP = jnp.take_along_axis(logits_BPV, target[..., None], axis=-1)[..., 0]
        log_BP = chosen_BP - jax.nn.logsumexp(logits_BPV, axis=-1)
        greedy_BP = vocabulary.among_tokens(logits_BPV).argmax(axis=-1).astype(jnp.int32)
        put = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
        return put(log_BO, log_BP), put(greedy_BO, greedy_BP)

    longest = mask_BO.sum(axis=1, dtype=jnp.int32).max()
    empty = (jnp.zeros(target_BO.shape, jnp.float32), jnp.zeros(target_BO.shape, jnp.int32))
    log_BO, greedy_BO = lax.fori_loop(0, (longest + width - 1) // width, score, empty)
    return jnp.where(mask_BO, log_BO, 0), greedy_BO
