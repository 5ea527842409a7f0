"""Tiny models, networks and batches for tests of training, drawn by numpy: nothing compiles before a test asks."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyntok_jax.embedding import Hypernet, HypernetConfig, init_hypernet
from dyntok_jax.models import Decoder, DecoderConfig, Encoder, EncoderConfig, MaskedLmHead
from dyntok_jax.training import FrozenModel
from dyntok_jax.training.data import PieceBatch, SurfaceForms, TextBatch, TrainingBatch
from dyntok_jax.training.objectives import freeze

V, D, S = 40, 16, 3
N_BYTES = 5
MASK_ROW = 4
ENCODER = EncoderConfig("bert", V, D, 2, 4, 32, 24)
DECODER = DecoderConfig("llama", V, D, 2, 4, 4, 4, 32, 64, 1e-5)
HYPERNET = HypernetConfig(
    width=D,
    hidden_width=16,
    ffn_width=32,
    n_layers=2,
    n_heads=4,
    vocab_size=V,
    n_extra_tokens=N_BYTES,
    max_subwords=S,
    max_positions=S + 1,
    pad_token_id=0,
    rescale=True,
    predict_bias=False,
)
KINDS = ("encoder", "decoder")
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""Options with which programs compile in half the time; they run once, so their speed does not matter."""


def random_tree(make: Any, seed: int, spread: float = 0.3) -> Any:
    """The tree that `make` builds from a key, filled with random numbers; scales of norms are about 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        middle = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(middle + spread * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(make, jax.random.key(0)))


def tiny_frozen(kind: str = "encoder", dtype: Any = jnp.float32) -> FrozenModel:
    """An encoder with its masked-LM head, or a decoder with separate output embeddings."""
    if kind == "decoder":
        return freeze(random_tree(partial(Decoder, DECODER, dtype=dtype), 1))
    body = random_tree(partial(Encoder, ENCODER, dtype=dtype), 1)
    return freeze(body, random_tree(partial(MaskedLmHead, ENCODER, dtype=dtype), 2), MASK_ROW)


def hypernet_config(kind: str = "encoder", **changes: Any) -> HypernetConfig:
    """Of a hypernetwork for `tiny_frozen`."""
    return replace(HYPERNET, separate_output=kind == "decoder", predict_bias=kind == "encoder", **changes)


def random_hypernet(kind: str = "encoder", seed: int = 0, **changes: Any) -> Hypernet:
    """A hypernetwork that is at no special place."""
    return random_tree(partial(init_hypernet, hypernet_config(kind, **changes)), seed)


def random_forms(rng: np.random.Generator, n_forms: int) -> SurfaceForms:
    """Distinct tokens of 2 or 3 subwords, bytes among them."""
    length_P = rng.integers(2, S + 1, n_forms)
    is_subword_PS = np.arange(S)[None] < length_P[:, None]
    surface_PS = rng.integers(0, V + N_BYTES, (n_forms, S)) * is_subword_PS
    return SurfaceForms(surface_PS.astype(np.int32), is_subword_PS, np.zeros(n_forms, np.int32))


def random_texts(seed: int = 0, *, n_texts: int = 3, length: int = 7, n_forms: int = 5, n_kept: int = 4) -> TextBatch:
    """Texts of different lengths without any padding of forms or rows; some tokens are aligned, some masked."""
    rng = np.random.default_rng(seed)
    n_tokens = length - 2
    static_length_B = rng.integers(3, length + 1, n_texts)
    token_length_B = np.maximum(static_length_B - 2, 2)
    static_length_B[0], token_length_B[0] = length, n_tokens
    static_mask_BL = np.arange(length)[None] < static_length_B[:, None]
    mask_BT = np.arange(n_tokens)[None] < token_length_B[:, None]
    aligned_BT = np.full(mask_BT.shape, -1)
    for row, tokens in enumerate(token_length_B):
        some = np.sort(rng.permutation(static_length_B[row])[:tokens])
        aligned_BT[row, :tokens] = np.where(rng.random(tokens) < 0.7, some, -1)
    aligned_BT[0, 0] = 0
    is_masked_BT = (rng.random(mask_BT.shape) < 0.4) & mask_BT
    is_masked_BT[0, 1] = True
    return TextBatch(
        static_BL=(rng.integers(0, V, static_mask_BL.shape) * static_mask_BL).astype(np.int32),
        static_mask_BL=static_mask_BL,
        row_BT=(rng.integers(0, n_forms + n_kept, mask_BT.shape) * mask_BT).astype(np.int32),
        mask_BT=mask_BT,
        aligned_BT=aligned_BT.astype(np.int32),
        is_masked_BT=is_masked_BT,
        forms=random_forms(rng, n_forms),
        kept_K=rng.permutation(V)[:n_kept].astype(np.int32),
        n_kept=np.asarray(n_kept, np.int32),
    )


def random_pieces(seed: int = 0, n_pieces: int = 6) -> PieceBatch:
    """Pieces of the vocabulary, written as anything."""
    rng = np.random.default_rng(seed)
    return PieceBatch(random_forms(rng, n_pieces), rng.permutation(V)[:n_pieces].astype(np.int32))


def random_batch(seed: int = 0, **sizes: int) -> TrainingBatch:
    """Texts and pieces."""
    return TrainingBatch(random_texts(seed, **sizes), random_pieces(seed + 100))


class Stream(Iterator[TrainingBatch]):
    """Batches without end, each drawn from its number."""

    def __init__(self, **sizes: int):
        self.number, self.sizes = 0, sizes

    def __next__(self) -> TrainingBatch:
        self.number += 1
        return random_batch(self.number, **self.sizes)

    def get_state(self) -> dict[str, Any]:
        return {"number": self.number}

    def set_state(self, state: dict[str, Any]) -> None:
        self.number = state["number"]
