"""Generation in a vocabulary far larger than the model's own: an index proposes the few tokens that could come next.

The loop is that of `loop.py`. Input rows come from the large table, and in place of the whole output product a search
for the k largest inner products with the last hidden state; a token is chosen among these, by their exact logits.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from dyntok_jax.errors import InputError
from dyntok_jax.generation.index import MipsIndex, best, exact_search, place_index, search
from dyntok_jax.generation.loop import GenerationState, Limits, advance_with, start_with
from dyntok_jax.generation.sampling import EXCLUDED, Sampling
from dyntok_jax.models.mistral import Decoder
from dyntok_jax.types import AnyArray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LargeVocabulary:
    """A vocabulary's rows and the index of its output rows.

    Attributes:
      input_VD: the row that each token is read as.
      output_VD: the row that it is scored by; None where that is the input row.
      index: of the output rows; None to score all of them.
      constituents_VS: the model's own subwords that each token is made of, -1 behind them.
      barred_E: tokens that are never chosen.
    """

    input_VD: Float[AnyArray, "V D"]
    output_VD: Float[AnyArray, "V D"] | None
    index: MipsIndex | None
    constituents_VS: Int32[AnyArray, "V S"]
    barred_E: Int32[AnyArray, "E"] = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class SearchedVocabulary:
    """A large vocabulary within a step: how many blocks are read, and how many candidates come of it.

    Attributes:
      large: the vocabulary.
      k: candidates.
      n_probe: blocks read for each sequence.
      mesh: over which the index lies.
    """

    large: LargeVocabulary
    k: int
    n_probe: int
    mesh: Mesh | None

    def embed(self, token_BT: Int32[Array, "B T"]) -> Float[Array, "B T D"]:
        """The input rows."""
        return self.large.input_VD.at[token_BT].get(mode="fill", fill_value=0)

    def propose(
        self, hidden_BD: Float[Array, "B D"], seen_BV: Bool[Array, "B V"] | None
    ) -> tuple[Int32[Array, "B K"], Float32[Array, "B K"], Bool[Array, "B K"] | None]:
        """The best tokens that the index finds.

        A repetition penalty holds for a token whose constituents have all been seen: for the subwords of prompt and
        text as for any token with the string of a few of them.
        """
        large = self.large
        output_VD = large.input_VD if large.output_VD is None else large.output_VD
        n_found = self.k + len(large.barred_E)  # so that k are left
        if large.index is None:
            ids_BK, logits_BK = exact_search(output_VD, hidden_BD, n_found)
        else:
            ids_BK, logits_BK = search(
                large.index, hidden_BD, n_found, self.n_probe, table_VD=output_VD, mesh=self.mesh
            )
        if n_found > self.k:
            is_barred_BK = jnp.isin(ids_BK, large.barred_E)
            ids_BK, logits_BK = best(ids_BK, jnp.where(is_barred_BK, EXCLUDED, logits_BK), self.k)
        if seen_BV is None:
            return ids_BK, logits_BK, None
        parts_BKS = large.constituents_VS[jnp.maximum(ids_BK, 0)]
        row_B = jnp.arange(len(ids_BK), dtype=jnp.int32)[:, None, None]
        is_seen_BKS = seen_BV[row_B, jnp.maximum(parts_BKS, 0)] | (parts_BKS < 0)
        return ids_BK, logits_BK, is_seen_BKS.all(axis=2)

    def mark_seen(
        self, seen_BV: Bool[Array, "B V"], token_B: Int32[Array, "B"], is_active_B: Bool[Array, "B"]
    ) -> Bool[Array, "B V"]:
        """A token counts as its constituents."""
        parts_BS = self.large.constituents_VS[token_B]
        row_B1 = jnp.arange(len(token_B), dtype=jnp.int32)[:, None]
        return seen_BV.at[row_B1, jnp.maximum(parts_BS, 0)].max(is_active_B[:, None] & (parts_BS >= 0))


def place_vocabulary(large: LargeVocabulary, mesh: Mesh | None) -> LargeVocabulary:
    """Puts a vocabulary on the default device, or over a mesh: tables by width, the index by blocks.

    Raises:
      InputError: the axis `model` does not divide the width.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, large)
    width, n_parts = large.input_VD.shape[1], mesh.shape["model"]
    if width % n_parts:
        raise InputError(f"{n_parts} devices on the mesh axis 'model' do not divide rows of width {width}.")
    by_width, whole = NamedSharding(mesh, P(None, "model")), NamedSharding(mesh, P())
    return LargeVocabulary(
        input_VD=jax.device_put(large.input_VD, by_width),
        output_VD=None if large.output_VD is None else jax.device_put(large.output_VD, by_width),
        index=None if large.index is None else place_index(large.index, mesh),
        constituents_VS=jax.device_put(large.constituents_VS, whole),
        barred_E=jax.device_put(large.barred_E, whole),
    )


@partial(jax.jit, static_argnames=("k", "n_probe", "capacity", "stretch", "last_stretch", "mesh"))
def start(
    model: Decoder,
    large: LargeVocabulary,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    seen_BV: Bool[Array, "B V"] | None,
    key_B: Key[Array, "B"],
    sampling: Sampling,
    limits: Limits,
    *,
    k: int,
    n_probe: int,
    capacity: int,
    stretch: int,
    last_stretch: int | None = None,
    mesh: Mesh | None = None,
) -> GenerationState:
    """Reads the prompts and chooses the first token of each, as `loop.start` does.

    Args:
      model: the parameters.
      large: the vocabulary; ids of `limits.end_E` and of the state's tokens are rows of it.
      embeddings_BTD: word embeddings of the prompts.
      mask_BT: True for tokens; padding stands on the right.
      seen_BV: subwords of the model's own vocabulary that the prompts hold, where a repetition penalty wants them.
      key_B: one key a sequence.
      sampling: how tokens are chosen; cuts count the k candidates only.
      limits: when sequences end.
      k: candidates a step.
      n_probe: blocks of the index read for each sequence.
      capacity: as for `loop.start`.
      stretch: as for `loop.start`.
      last_stretch: as for `loop.start`.
      mesh: as for `loop.start`.
    """
    return start_with(
        model,
        SearchedVocabulary(large, k, n_probe, mesh),
        embeddings_BTD,
        mask_BT,
        seen_BV,
        key_B,
        sampling,
        limits,
        capacity=capacity,
        stretch=stretch,
        last_stretch=last_stretch,
        mesh=mesh,
    )


@partial(jax.jit, static_argnames=("k", "n_probe", "size", "mesh"), donate_argnames=("state",))
def advance(
    model: Decoder,
    large: LargeVocabulary,
    state: GenerationState,
    sampling: Sampling,
    limits: Limits,
    n_steps: Int32[Array, ""],
    *,
    k: int,
    n_probe: int,
    size: int,
    mesh: Mesh | None = None,
) -> tuple[GenerationState, Int32[Array, "B size"]]:
    """Goes on as `loop.advance` does; `large`, `k` and `n_probe` as for `start`."""
    vocabulary = SearchedVocabulary(large, k, n_probe, mesh)
    return advance_with(model, vocabulary, state, sampling, limits, n_steps, size=size, mesh=mesh)
