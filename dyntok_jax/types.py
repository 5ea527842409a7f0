"""The dimension legend and the batches that travel between the steps.

Dimension suffixes, in names and in jaxtyping annotations, everywhere:

  B sequences · L subwords a sequence (padded) · T tokens a sequence (padded) · U unique tokens of a batch (padded) ·
  S subwords of a surface form · D model width · F feed-forward width · N query heads · K key/value heads ·
  H head width · V vocabulary rows · C cache rows · Y labels of a head · R rank of an adapter

Batches are registered pytrees of arrays (numpy on the host, JAX on the device), so they pass through `jax.jit`,
`jax.vmap` and `jax.device_put` whole.
"""

from dataclasses import dataclass
from typing import Generic

import jax
import numpy as np
from jaxtyping import Array, Bool, Int32
from typing_extensions import TypeVar

NO_SEGMENT = -1
"""Segment of special tokens and padding: nothing merges there."""

EXCLUDED = float(np.finfo(np.float32).min)
"""The score of a token that cannot be sampled."""

AnyArray = np.ndarray | Array
"""A host or a device array: `Int32[AnyArray, "B L"]`."""

ArrayT = TypeVar("ArrayT", bound=AnyArray, default=AnyArray, covariant=True)
"""Where a batch lies: `SubwordBatch[np.ndarray]` on the host, `SubwordBatch[Array]` on the device, `SubwordBatch` on
either."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SubwordBatch(Generic[ArrayT]):
    """Texts as subwords of one tokenizer, padded to a common length L.

    Attributes:
      ids_BL: subword ids; the padding id under a False mask.
      segment_BL: number of the segment of a subword, counted from 0 within its sequence (through both texts of a
        pair); `NO_SEGMENT` for special tokens and padding.
      pretoken_BL: number of its pretoken within its text; -1 for special tokens around texts, and padding.
      mask_BL: True for subwords and special tokens, False for padding; padding is always on the right.
      type_BL: the model's token types: BERT's have 1 in the second text of a pair, XLM-R's are all 0.
      text_BL: 0 in the first text of a pair and in single texts, 1 in the second, whatever the model's types; -1 for
        special tokens around texts, and padding.
      span_BL2: first character and one past the last that the subword's bytes touch, in the original text (of a pair,
        its own text; of pre-split words, the words joined by one space); (0, 0) where there is none.
      word_BL: index of the pre-split word the subword belongs to; -1 for special tokens, padding and unsplit text.
      is_counted_BL: False for special tokens, prefixes and padding, which counts of tokens leave out.

    >>> jax.tree.map(jnp.asarray, batch).segment_BL[2, :5].tolist()  # `<s> Freiheit</s>` and padding
    [-1, 0, -1, -1, -1]
    """

    ids_BL: Int32[ArrayT, "B L"]
    segment_BL: Int32[ArrayT, "B L"]
    pretoken_BL: Int32[ArrayT, "B L"]
    mask_BL: Bool[ArrayT, "B L"]
    type_BL: Int32[ArrayT, "B L"]
    text_BL: Int32[ArrayT, "B L"]
    span_BL2: Int32[ArrayT, "B L 2"]
    word_BL: Int32[ArrayT, "B L"]
    is_counted_BL: Bool[ArrayT, "B L"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MergedBatch(Generic[ArrayT]):
    """Which consecutive subwords make up each token. Tokens are at the left of each row, in order.

    `*batch` is empty except in the result of a `jax.vmap` over whole batches.

    Attributes:
      start_BT: index, in the subwords of the same sequence, of a token's first subword; 0 under a False mask.
      length_BT: how many subwords the token has; 0 under a False mask.
      mask_BT: True for tokens (special tokens included), False for padding.
      n_merges: how many merges were done: one number for the batch (scope `batch`), one a sequence (scope `example`);
        None where the result was computed without single merges.

    >>> merged.length_BT[2, :5].tolist()  # `<s>`, ` Freiheit`, `</s>` and padding
    [1, 1, 1, 0, 0]
    """

    start_BT: Int32[ArrayT, "*batch B T"]
    length_BT: Int32[ArrayT, "*batch B T"]
    mask_BT: Bool[ArrayT, "*batch B T"]
    n_merges: Int32[ArrayT, "*scope"] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UniqueTokens(Generic[ArrayT]):
    """The distinct tokens of a batch, written as surface forms.

    Attributes:
      surface_US: subword ids of each distinct token, cut at S and padded with 0 under a False mask.
      is_subword_US: which entries of `surface_US` are subwords; a row that is all False is padding.
      inverse_BT: for each token of the batch its row in `surface_US`; 0 for padding.
      count: how many of the U rows are tokens.

    >>> from dyntok_jax.embedding import constituents, unique_tokens_on_host
    >>> surface_BTS, is_subword_BTS = constituents(batch.ids_BL, merged, width=7)
    >>> unique = unique_tokens_on_host(surface_BTS, is_subword_BTS, merged.mask_BT)
    >>> unique.inverse_BT[0, 1] == unique.inverse_BT[2, 1]  # ` Freiheit` in two texts
    np.True_
    """

    surface_US: Int32[ArrayT, "U S"]
    is_subword_US: Bool[ArrayT, "U S"]
    inverse_BT: Int32[ArrayT, "B T"]
    count: Int32[ArrayT, ""]
