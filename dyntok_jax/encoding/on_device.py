"""One program on the device: from padded subwords through merging, distinct tokens and their rows to embeddings.

Nothing returns to the host in between, so sizes that depend on the texts must be known beforehand: how many tokens a
sequence has after merging, how many distinct new tokens the batch has, how many subwords merge step by step. The
program is compiled for a `Room` of each, and says what the batch needed; where that was more, it runs again.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int32

from dyntok_jax.embedding import (
    DeviceCache,
    RowPredictor,
    TokenInputs,
    constituents,
    look_up,
    unique_tokens,
    with_rows,
)
from dyntok_jax.encoding.model_step import encode_batch
from dyntok_jax.merging import FirstMerges, MergeLimits, limits_of, longest_token, merge_batch, merge_fully
from dyntok_jax.models import Encoder, SentenceHead
from dyntok_jax.options import FULL, Merging, Positions, Scope
from dyntok_jax.sharding import constrain_by_rules, constrain_hidden, constrain_whole
from dyntok_jax.text import bucket
from dyntok_jax.types import AnyArray, MergedBatch, SubwordBatch, UniqueTokens


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnDeviceModel:
    """Everything that the program computes with.

    Attributes:
      encoder: the parameters.
      predictor: what rows of new tokens are predicted from.
      head: how hidden states become sentence embeddings; None for hidden states.
      kept_K: ids of special and other added tokens, if single subwords are predicted too; else None.

    >>> OnDeviceModel(encoder.encoder, encoder.embedder.predictor, head=None, kept_K=None).encoder is encoder.encoder
    True
    """

    encoder: Encoder
    predictor: RowPredictor
    head: SentenceHead | None
    kept_K: Int32[AnyArray, "K"] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnDeviceMerging:
    """Merging options as the program reads them: what is an array is not compiled in.

    Attributes:
      limits: when merging stops; None for full merging, which needs fewer steps.
      longest: the longest token there may be, in subwords.
      first_merges: how many merges stay within pretokens; None where all may cross them.
      scope: whether pairs are counted over the batch or in each sequence alone.
      positions: what the model's positions count.

    >>> OnDeviceMerging.of(Merging(scope="batch", max_subwords=7)).limits is None  # full merging
    True
    """

    limits: MergeLimits | None
    longest: Int32[AnyArray, ""]
    first_merges: Int32[AnyArray, ""] | None
    scope: Scope = field(metadata={"static": True})
    positions: Positions = field(metadata={"static": True})

    @classmethod
    def of(cls, merging: Merging) -> "OnDeviceMerging":
        """The options of `merging`, which must be resolved, without a merge list and not static."""
        assert merging.goal is not None, "static texts are not merged"
        assert merging.scope != "auto", "merging is resolved first"
        assert merging.max_subwords != "auto", "merging is resolved first"
        is_full = merging.goal == FULL and not merging.pretoken_merges
        return cls(
            limits=None if is_full else limits_of(merging.goal),
            longest=longest_token(merging.max_subwords),
            first_merges=np.asarray(merging.pretoken_merges, np.int32) if merging.pretoken_merges else None,
            scope=merging.scope,
            positions=merging.positions,
        )


@dataclass(frozen=True)
class Room:
    """The sizes that the program is compiled for.

    Attributes:
      tokens: T, of the longest sequence after merging.
      forms: U, distinct new tokens of the batch.
      predicted: those of them that are not in the cache; as many as `forms` without one.
      looped: subwords that merge step by step, of the batch or, in scope `example`, of each sequence.
      width: S, subwords of a surface form; longer ones are cut.

    >>> room = Room(tokens=16, forms=64, predicted=64, looped=32, width=7)
    >>> needed = Needed(*np.array([16, 80, 8, 0], np.int32))
    >>> room.grown(needed, most=replace(room, forms=512)).forms
    128
    """

    tokens: int
    forms: int
    predicted: int
    looped: int
    width: int

    def grown(self, needed: "Needed", most: "Room") -> "Room":
        """Room for what a batch needed, in few steps so that few programs are compiled, and no more than `most`."""
        tokens = bucket(int(needed.tokens)) if needed.tokens > self.tokens else self.tokens
        sizes = {"tokens": min(tokens, most.tokens)}
        for name in ("forms", "looped"):
            size, least = getattr(self, name), int(getattr(needed, name))
            while size < least:
                size *= 2
            sizes[name] = min(size, getattr(most, name))
        predicted = self.predicted if needed.predicted <= self.predicted else sizes["forms"]
        return replace(self, **sizes, predicted=predicted)


class Needed(NamedTuple):
    """What a batch needed of each size of a `Room`."""

    tokens: Int32[Array, ""]
    forms: Int32[Array, ""]
    predicted: Int32[Array, ""]
    looped: Int32[Array, ""]


class OnDeviceBatch(NamedTuple):
    """The program's result; it holds only if there was room for what was needed.

    Attributes:
      result: sentence embeddings, or hidden states.
      merged: which subwords make each token; T = L.
      needed: what the batch needed of the room.
      cache: with the rows that were predicted; they are right even where there was too little room.
    """

    result: Float[Array, "B *T D"]
    merged: MergedBatch[Array]
    needed: Needed
    cache: DeviceCache | None


@partial(jax.jit, static_argnames=("room", "mesh"), donate_argnames="cache")
def encode_subwords(
    model: OnDeviceModel,
    batch: SubwordBatch,
    language_B: Int32[AnyArray, "B"],
    merging: OnDeviceMerging,
    cache: DeviceCache | None = None,
    *,
    room: Room,
    mesh: Mesh | None = None,
) -> OnDeviceBatch:
    """Merges a batch, embeds its tokens and runs the encoder.

    Args:
      model: the parameters, sharded by the table in `sharding.py`.
      batch: padded subwords, over `data`.
      language_B: the hypernetwork's index of each text's language; any number where it has none.
      merging: how to merge.
      cache: rows predicted so far, with this model; it is donated. None to predict all.
      room: sizes to compile for. A sequence that needs more tokens loses its last ones, and only its own result is
        wrong; where one of the others is too small, everything is.
      mesh: of parameters and batch.

    >>> from dyntok_jax.embedding import TokenEmbedder
    >>> model = OnDeviceModel(encoder.encoder, encoder.embedder.predictor, encoder.sentence.head, None)
    >>> merging = OnDeviceMerging.of(Merging(scope="batch", max_subwords=7))
    >>> room = Room(tokens=16, forms=16, predicted=16, looped=16, width=7)
    >>> found = encode_subwords(model, batch, np.zeros(3, np.int32), merging, room=room)
    >>> found.result.shape, [int(number) for number in found.needed]
    ((3, 32), [9, 8, 8, 9])
    """
    merged, n_looped = _merge(batch, merging, room.looped, mesh)
    start_BT, length_BT, mask_BT = (
        constrain_hidden(each[:, : room.tokens], mesh) for each in (merged.start_BT, merged.length_BT, merged.mask_BT)
    )
    first_BT = jnp.take_along_axis(batch.ids_BL, start_BT, axis=1)
    is_new_BT = _is_new(model, first_BT, length_BT) & mask_BT

    # the language is part of what makes two tokens the same
    surface_BTS, is_subword_BTS = constituents(
        batch.ids_BL, MergedBatch(start_BT, length_BT, mask_BT, None), width=room.width
    )
    language_BT1 = jnp.broadcast_to(language_B[:, None, None], (*is_new_BT.shape, 1))
    unique = unique_tokens(
        *constrain_whole(
            (
                jnp.concatenate([language_BT1, surface_BTS], axis=2),
                jnp.concatenate([is_new_BT[..., None], is_subword_BTS], axis=2),
                is_new_BT,
            ),
            mesh,
        ),
        size=room.forms,
    )
    rows_UD, n_predicted, cache = _rows(model.predictor, unique, cache, room.predicted, mesh)
    inputs = TokenInputs(
        ids_BT=jnp.minimum(first_BT, model.predictor.n_own - 1),
        row_BT=jnp.where(is_new_BT, constrain_hidden(unique.inverse_BT, mesh), -1),
        rows_RD=constrain_whole(rows_UD, mesh),
        mask_BT=mask_BT,
        step_BT=length_BT if merging.positions == "subwords" else None,
    )
    type_BT = jnp.take_along_axis(batch.type_BL, start_BT, axis=1)
    return OnDeviceBatch(
        result=encode_batch(model.encoder, inputs, type_BT, model.head),
        merged=merged,
        needed=Needed(merged.mask_BT.sum(axis=1, dtype=jnp.int32).max(), unique.count, n_predicted, n_looped),
        cache=cache,
    )


def _merge(batch: SubwordBatch, merging: OnDeviceMerging, size: int, mesh: Mesh | None):
    """The tokens, and how many subwords were merged step by step where that is limited."""

    def merge(ids_BL, segment_BL, mask_BL, pretoken_BL, merging):
        arrays = ids_BL, segment_BL, mask_BL
        if merging.limits is None:
            merged, n_looped = merge_fully(*arrays, merging.longest, scope=merging.scope, size=size)
            return merged, n_looped
        first = None if merging.first_merges is None else FirstMerges(pretoken_BL, merging.first_merges)
        merged = merge_batch(*arrays, merging.limits, max_subwords=merging.longest, scope=merging.scope, first=first)
        return replace(merged, n_merges=None), jnp.zeros(1, jnp.int32)

    arrays = batch.ids_BL, batch.segment_BL, batch.mask_BL, batch.pretoken_BL
    if merging.scope == "batch":  # each merge depends on all sequences
        arrays = constrain_whole(arrays, mesh)
    elif mesh is not None:  # each device merges its own sequences
        merge = jax.shard_map(
            merge, mesh=mesh, in_specs=(*[P("data")] * 4, P()), out_specs=(P("data"), P("data")), check_vma=False
        )
    merged, n_looped = merge(*arrays, merging)
    return merged, n_looped.max(initial=0)


def _rows(
    predictor: RowPredictor, unique: UniqueTokens[Array], cache: DeviceCache | None, size: int, mesh: Mesh | None
) -> tuple[Float[Array, "U D"], Int32[Array, ""], DeviceCache | None]:
    """The row of each form, how many of them were to be predicted, and the cache with these."""

    def predict(key_US, is_subword_US):
        forms = (constrain_hidden(each, mesh) for each in (key_US[:, 1:], is_subword_US[:, 1:], key_US[:, 0]))
        return constrain_whole(predictor.predict(*forms), mesh)

    if cache is None:
        return predict(unique.surface_US, unique.is_subword_US), unique.count, None
    position_U = jnp.arange(len(unique.surface_US), dtype=jnp.int32)
    is_form_U, key_US = position_U < unique.count, jnp.where(unique.is_subword_US, unique.surface_US, -1)
    found = look_up(cache, key_US, is_form_U)
    is_missing_U = is_form_U & ~found.is_hit_U
    missing_R = lax.sort(jnp.where(is_missing_U, position_U, len(position_U)))[:size]
    key_RS = key_US.at[missing_R].get(mode="fill", fill_value=-1)
    predicted_RD = predict(jnp.maximum(key_RS, 0), key_RS >= 0).astype(cache.row_CD.dtype)
    rank_U = jnp.cumsum(is_missing_U, dtype=jnp.int32) - 1
    rows_UD = jnp.where(is_missing_U[:, None], predicted_RD.at[rank_U].get(mode="clip"), found.rows_UD)
    is_sound_U = is_missing_U & (rank_U < size) & jnp.isfinite(rows_UD).all(axis=1)
    cache = constrain_by_rules(with_rows(cache, found, key_US, rows_UD, is_sound_U), mesh)
    return constrain_whole(rows_UD, mesh), is_missing_U.sum(dtype=jnp.int32), cache


def _is_new(model: OnDeviceModel, first_BT: Int32[Array, "B T"], length_BT: Int32[Array, "B T"]) -> Bool[Array, "B T"]:
    """Which tokens have no row in the model's table: `wants_row` on the device."""
    is_new_BT = (length_BT > 1) | (first_BT >= model.predictor.n_own)
    return is_new_BT if model.kept_K is None else is_new_BT | ~jnp.isin(first_BT, model.kept_K)
