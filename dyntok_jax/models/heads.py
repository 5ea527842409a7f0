"""Heads of encoders: the masked-LM head, and sentence embeddings by mean pooling."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Key

from dyntok_jax.models.bert import EncoderConfig
from dyntok_jax.models.layers import ACTIVATIONS, Dense, LayerNorm, dense, layer_norm


class MaskedLmHead(nnx.Module):
    """Parameters of a masked-LM head, without the output table: that is the encoder's word table (tied).

    >>> MaskedLmHead(encoder.config, jax.random.key(0)).transform.kernel.shape
    (32, 32)
    """

    def __init__(self, config: EncoderConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32):
        self.config = config
        self.transform = Dense(key, (config.width,), (config.width,), dtype)
        self.norm = LayerNorm(config.width, dtype)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,), dtype))


def mlm_features(head: MaskedLmHead, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The hidden states that the output table is multiplied with: dense, gelu, LayerNorm.

    RoBERTa's head always uses the exact gelu, BERT's the activation of its config (Hugging Face's implementations).

    >>> head = MaskedLmHead(encoder.config, jax.random.key(0))
    >>> mlm_features(head, jnp.ones((1, 3, 32))).shape
    (1, 3, 32)
    """
    activation = head.config.activation if head.config.model_type == "bert" else "gelu"
    return layer_norm(head.norm, ACTIVATIONS[activation](dense(head.transform, hidden_BTD)), head.config.norm_eps)


def mlm_logits(
    head: MaskedLmHead, hidden_BTD: Float[Array, "B T D"], word_table_VD: Float[Array, "V D"]
) -> Float[Array, "B T V"]:
    """Scores of every word at every position (Devlin et al. 2019, §3.1), with the tied table `word_table_VD`.

    >>> config = EncoderConfig("bert", vocab_size=9, width=8, n_layers=1, n_heads=2, ffn_width=16)
    >>> head = MaskedLmHead(config, jax.random.key(0))
    >>> mlm_logits(head, jnp.ones((1, 3, 8)), jnp.ones((9, 8))).shape
    (1, 3, 9)
    """
    return jnp.einsum("BTD,VD->BTV", mlm_features(head, hidden_BTD), word_table_VD) + head.bias[...][None, None]


def mean_pool(hidden_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"]) -> Float32[Array, "B D"]:
    """The mean hidden state over tokens under a True mask; zeros for a row without any.

    Summed and returned in float32 whatever the dtype: bfloat16 cannot even count to 301.

    >>> mean_pool(jnp.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), jnp.array([[True, True, False]]))
    Array([[2., 3.]], dtype=float32)
    """
    count_B1 = jnp.maximum(mask_BT.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
    return hidden_BTD.sum(axis=1, where=mask_BT[:, :, None], dtype=jnp.float32) / count_B1


def l2_normalize(x: Float[Array, "*rows D"], eps: float = 1e-12) -> Float32[Array, "*rows D"]:
    """Rows of length 1, in float32 whatever the dtype; a zero row stays zero, with a zero gradient.

    >>> l2_normalize(jnp.array([3.0, 4.0])).round(3)
    Array([0.6, 0.8], dtype=float32)
    """
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, eps**2))
