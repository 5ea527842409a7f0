"""Surface forms: tokens written as subword ids, padded to S, and the distinct ones of a batch.

*Constituents* are the token's own subwords, gathered on the device or on the host. *Retokenized* forms, those of the
reference, are the tokenizer's subwords for the token's string alone; they need the tokenizer, so the host. Padding is 0
under a False mask throughout.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32

from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.types import ArrayT, MergedBatch, UniqueTokens


def constituents(
    ids_BL: Int32[ArrayT, "B L"], merged: MergedBatch[ArrayT], *, width: int
) -> tuple[Int32[ArrayT, "B T S"], Bool[ArrayT, "B T S"]]:
    """Each token's own subword ids, cut at S = `width`, and which entries are subwords.

    Works on numpy and on JAX arrays, and returns the same kind.

    >>> surface_BTS, is_subword_BTS = constituents(batch.ids_BL, merged, width=7)
    >>> is_subword_BTS[0, :6].sum(axis=1)  # `<s>| Freiheit| und| Gleichhe|it|</s>`
    array([1, 1, 1, 7, 2, 1])
    >>> tokenizer.token_text(surface_BTS[0, 3].tolist())
    ' Gleichhe'
    """
    xp = ids_BL.__array_namespace__()
    step_11S = xp.arange(width, dtype=xp.int32)[None, None, :]
    is_subword_BTS = (step_11S < merged.length_BT[..., None]) & merged.mask_BT[..., None]
    position_BTS = xp.where(is_subword_BTS, merged.start_BT[..., None] + step_11S, 0)
    n_batch, n_tokens = merged.start_BT.shape
    gathered_BTS = xp.take_along_axis(ids_BL, position_BTS.reshape(n_batch, n_tokens * width), axis=1)
    return xp.where(is_subword_BTS, gathered_BTS.reshape(position_BTS.shape), 0), is_subword_BTS


def unique_tokens(
    surface_BTS: Int32[Array, "B T S"],
    is_subword_BTS: Bool[Array, "B T S"],
    mask_BT: Bool[Array, "B T"],
    *,
    size: int,
) -> UniqueTokens[Array]:
    """Finds the distinct surface forms of a batch, on the device.

    Args:
      surface_BTS: surface forms.
      is_subword_BTS: which entries are subwords.
      mask_BT: which tokens count; the others get row 0.
      size: U, the rows to return. If the batch has more distinct tokens, `count` is their number and those past U are
        missing: give a larger size.

    Returns:
      The distinct forms in lexicographic order.

    >>> surface_BTS = jnp.array([[[7, 8], [5, 0], [7, 8]]], jnp.int32)
    >>> unique = unique_tokens(surface_BTS, surface_BTS > 0, jnp.ones((1, 3), bool), size=4)
    >>> unique.surface_US.tolist(), unique.inverse_BT.tolist(), int(unique.count)
    ([[5, 0], [7, 8], [0, 0], [0, 0]], [[1, 0, 1]], 2)
    """
    n_batch, n_tokens, width = surface_BTS.shape
    n = n_batch * n_tokens
    # padding within a form sorts before every id, padding tokens after every form
    key_BTS = jnp.where(is_subword_BTS, surface_BTS, -1)
    key_NS = jnp.where(mask_BT[..., None], key_BTS, jnp.iinfo(jnp.int32).max).reshape(n, width)
    # what is moved along or back is sorted, too: a TPU sorts much faster than it gathers or scatters single numbers
    position_N = jnp.arange(n, dtype=jnp.int32)
    place_N = 2 * position_N + mask_BT.reshape(n).astype(jnp.int32)
    *columns, place_N = lax.sort((*key_NS.T, place_N), num_keys=width)
    key_NS, is_token_N = jnp.stack(columns, axis=1), place_N % 2 == 1
    differs_N = jnp.any(key_NS != jnp.roll(key_NS, 1, axis=0), axis=1).at[0].set(True)
    is_first_N = differs_N & is_token_N
    row_N = jnp.where(is_token_N, jnp.cumsum(is_first_N, dtype=jnp.int32) - 1, 0)
    _, inverse_N = lax.sort((place_N, row_N), num_keys=1)
    first_U = jnp.pad(lax.sort(jnp.where(is_first_N, position_N, n)), (0, max(0, size - n)), constant_values=n)[:size]
    form_US = key_NS.at[first_U].get(mode="fill", fill_value=-1)
    return UniqueTokens(
        surface_US=jnp.maximum(form_US, 0),
        is_subword_US=form_US >= 0,
        inverse_BT=inverse_N.reshape(n_batch, n_tokens),
        count=is_first_N.sum(dtype=jnp.int32),
    )


def unique_tokens_on_host(
    surface_BTS: Int32[np.ndarray, "B T S"],
    is_subword_BTS: Bool[np.ndarray, "B T S"],
    mask_BT: Bool[np.ndarray, "B T"],
) -> UniqueTokens[np.ndarray]:
    """`unique_tokens` on the host, with exactly as many rows as there are distinct tokens, in any order.

    >>> surface_BTS = np.array([[[7, 8], [5, 0], [7, 8]]], np.int32)
    >>> unique = unique_tokens_on_host(surface_BTS, surface_BTS > 0, np.ones((1, 3), bool))
    >>> unique.surface_US.tolist(), unique.inverse_BT.tolist()
    ([[5, 0], [7, 8]], [[1, 0, 1]])
    """
    n_batch, n_tokens, width = surface_BTS.shape
    key_NS = np.where(is_subword_BTS, surface_BTS, -1)[mask_BT]
    form_US, inverse_N = np.zeros((0, width), np.int32), np.zeros(0, np.int32)
    if len(key_NS):
        # one opaque value a row: sorting bytes is much faster than sorting by S keys
        opaque_N = np.ascontiguousarray(key_NS).view(np.dtype((np.void, key_NS.itemsize * width)))[:, 0]
        _, first, inverse_N = np.unique(opaque_N, return_index=True, return_inverse=True)
        form_US = key_NS[first]
    inverse_BT = np.zeros((n_batch, n_tokens), np.int32)
    inverse_BT[mask_BT] = inverse_N
    return UniqueTokens(
        surface_US=np.maximum(form_US, 0),
        is_subword_US=form_US >= 0,
        inverse_BT=inverse_BT,
        count=np.asarray(len(form_US), np.int32),
    )


def retokenized(
    tokenizer: ByteLevelTokenizer, surface_US: Int32[np.ndarray, "U S"], is_subword_US: Bool[np.ndarray, "U S"]
) -> tuple[Int32[np.ndarray, "U S"], Bool[np.ndarray, "U S"]]:
    """The tokenizer's subwords for each token's string alone, cut at the same S: the reference's surface forms.

    Tokens that are already cut at S are retokenized as cut.
    """
    tokens = [ids[keep].tolist() for ids, keep in zip(surface_US, is_subword_US, strict=True)]
    forms = tokenizer.retokenize([tokenizer.token_string(token) for token in tokens])
    return pad_forms(forms, surface_US.shape[1])


def pad_forms(forms: Sequence[Sequence[int]], width: int) -> tuple[Int32[np.ndarray, "U S"], Bool[np.ndarray, "U S"]]:
    """Pads lists of subword ids to surface forms of S = `width`; longer ones are cut."""
    surface_US = np.zeros((len(forms), width), np.int32)
    is_subword_US = np.zeros((len(forms), width), bool)
    for row, form in enumerate(forms):
        cut = form[:width]
        surface_US[row, : len(cut)] = cut
        is_subword_US[row, : len(cut)] = True
    return surface_US, is_subword_US
