"""Merging and embedding as one pure function on the device: jitted, vmapped over goals, differentiated.

    python examples/merge_on_device.py

Text becomes subwords on the host. From there everything is one compiled program of arrays: merge, write tokens as
surface forms, find the distinct ones, predict their embeddings. Needs the extra `offline`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int32

from dyntok_jax import DynamicEncoder, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import average_embeddings, constituents, predict_embeddings, unique_tokens
from dyntok_jax.merging import MergeLimits, limits_of, merge_batch
from dyntok_jax.text import pad_batch
from dyntok_jax.types import MergedBatch, SubwordBatch

WIDTH = 7
"""Subwords of a surface form, S."""


def merge(batch: SubwordBatch, limits: MergeLimits) -> MergedBatch:
    """Which subwords make a token; `limits` is a goal as numbers, so one program serves every goal."""
    return merge_batch(batch.ids_BL, batch.segment_BL, batch.mask_BL, limits, max_subwords=WIDTH)


@jax.jit
def count_tokens(batch: SubwordBatch, limits: MergeLimits) -> Int32[Array, ""]:
    """Tokens of the batch after merging."""
    return merge(batch, limits).mask_BT.sum(dtype=jnp.int32)


@partial(jax.jit, static_argnames="size")
def embed(hypernet, source_VD: Float[Array, "V D"], batch: SubwordBatch, limits: MergeLimits, *, size: int):
    """Embeddings of the merged batch, by hypernetwork and by FVT; single subwords are predicted, too.

    Args:
      hypernet: its parameters.
      source_VD: the model's embedding table.
      batch: padded subwords.
      limits: from `limits_of`.
      size: room for so many distinct tokens.
    """
    merged = merge(batch, limits)
    surface_BTS, is_subword_BTS = constituents(batch.ids_BL, merged, width=WIDTH)
    tokens = unique_tokens(surface_BTS, is_subword_BTS, merged.mask_BT, size=size)
    predicted_UD = predict_embeddings(hypernet, tokens.surface_US, tokens.is_subword_US, source_VD).input_UD
    average_UD = average_embeddings(tokens.surface_US, tokens.is_subword_US, source_VD)
    return predicted_UD[tokens.inverse_BT], average_UD[tokens.inverse_BT], merged.mask_BT, tokens.count


def run(model: str = "e5-small", hypernet: str = "auto", texts: int = 16) -> dict[int, int]:
    """Merges some German paragraphs and returns the tokens at each share.

    Args:
      model: a folder, a Hub id or a packaged model; one with a hypernetwork.
      hypernet: a hypernetwork's folder or Hub id; auto: the model's own.
      texts: how many paragraphs.
    """
    encoder = DynamicEncoder.load(model, hypernet)
    subwords = encoder.text_encoder.encode(load_sample()["de"][:texts])
    batch = jax.device_put(pad_batch(subwords, np.arange(texts), pad_id=encoder.tokenizer.pad_id))
    source_VD, (_, network) = encoder.embedder.source_VD, encoder.embedder.hypernet

    # one program for all goals at once
    shares = (0, 25, 50, 75, 100)
    limits = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(limits_of(Share(share)) for share in shares))
    counts = jax.vmap(count_tokens, in_axes=(None, 0))(batch, limits)
    found = dict(zip(shares, counts.tolist(), strict=True))
    print("tokens by share:", found)

    size = batch.ids_BL.size
    predicted_BTD, _, _, count = embed(network, source_VD, batch, limits_of(Share(100)), size=size)
    print(f"{count} distinct tokens; predicted embeddings {predicted_BTD.shape}")

    def distance(network):
        predicted_BTD, average_BTD, mask_BT, _ = embed(network, source_VD, batch, limits_of(Share(100)), size=size)
        return jnp.square(predicted_BTD - average_BTD).sum(where=mask_BT[..., None]) / mask_BT.sum().astype(jnp.float32)

    value, gradient = jax.value_and_grad(distance)(network)
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    print(f"squared distance to FVT {value:.3g}, length of its gradient {norm:.3g}")
    return found


if __name__ == "__main__":
    tyro.cli(run, description=__doc__)
