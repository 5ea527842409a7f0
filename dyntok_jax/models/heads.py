"""Heads of encoders: masked LM, classification of sequences and of tokens, sentence embeddings by mean pooling."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Key

from dyntok_jax.errors import ConfigError, InputError
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


class SequenceHead(nnx.Module):
    """Parameters of a head that gives one label a sequence: BERT's pooler and classifier, or RoBERTa's `classifier`.

    Attributes:
      config: of the encoder.
      labels: their names, in the order of the logits.

    >>> SequenceHead(encoder.config, ("entailment", "neutral"), jax.random.key(0)).output.kernel.shape
    (32, 2)
    """

    def __init__(
        self, config: EncoderConfig, labels: Iterable[str], key: Key[Array, ""], dtype: DTypeLike = jnp.float32
    ):
        keys = jax.random.split(key)
        self.config, self.labels = config, _checked_labels(labels)
        self.dense = Dense(keys[0], (config.width,), (config.width,), dtype)
        self.output = Dense(keys[1], (config.width,), (len(self.labels),), dtype)


class TokenHead(nnx.Module):
    """Parameters of a head that gives one label a token.

    Attributes:
      config: of the encoder.
      labels: their names, in the order of the logits.

    >>> TokenHead(encoder.config, ("O", "B-PER", "I-PER"), jax.random.key(0)).output.kernel.shape
    (32, 3)
    """

    def __init__(
        self, config: EncoderConfig, labels: Iterable[str], key: Key[Array, ""], dtype: DTypeLike = jnp.float32
    ):
        self.config, self.labels = config, _checked_labels(labels)
        self.output = Dense(key, (config.width,), (len(self.labels),), dtype)


def classify_sequences(head: SequenceHead, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B Y"]:
    """Scores of every label for each sequence, from the hidden state of its first token: dense, tanh, linear.

    >>> head = SequenceHead(encoder.config, ("entailment", "neutral"), jax.random.key(0))
    >>> classify_sequences(head, jnp.ones((4, 3, 32))).shape
    (4, 2)
    """
    return dense(head.output, jnp.tanh(dense(head.dense, hidden_BTD[:, 0])))


def classify_tokens(head: TokenHead, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B T Y"]:
    """Scores of every label for each token; a word's are those of its first token (`merging.first_tokens`).

    >>> head = TokenHead(encoder.config, ("O", "B-PER", "I-PER"), jax.random.key(0))
    >>> classify_tokens(head, jnp.ones((4, 3, 32))).shape
    (4, 3, 3)
    """
    return dense(head.output, hidden_BTD)


def label_ids(head: SequenceHead | TokenHead, labels: Iterable[str]) -> list[int]:
    """The numbers of labels, by name.

    Raises:
      InputError: the head does not have some of them; all are listed.

    >>> label_ids(TokenHead(encoder.config, ("O", "B-PER", "I-PER"), jax.random.key(0)), ["I-PER", "O"])
    [2, 0]
    """
    names, labels = {name: number for number, name in enumerate(head.labels)}, list(labels)
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise InputError(
            f"The model has no label {', '.join(map(repr, unknown))}: its labels are {', '.join(head.labels)}."
        )
    return [names[label] for label in labels]


def labels_of_hf(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a Hugging Face `config.json` names in `id2label`; LABEL_0 and LABEL_1 where it names none.

    Raises:
      ConfigError: `id2label` is no map from 0, 1, … to different names.

    >>> labels_of_hf({"id2label": {"0": "entailment", "1": "neutral"}})
    ('entailment', 'neutral')
    """
    named = config.get("id2label")
    if named is None:
        return "LABEL_0", "LABEL_1"
    if not isinstance(named, Mapping) or {str(key) for key in named} != {str(i) for i in range(len(named))}:
        raise ConfigError(f"id2label must map 0, 1, … to the names of labels, got {named!r}.")
    of_number = {str(key): name for key, name in named.items()}
    return _checked_labels(str(of_number[str(i)]) for i in range(len(named)))


def _checked_labels(labels: Iterable[str]) -> tuple[str, ...]:
    labels = tuple(labels)
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"A head needs labels of different names, got {', '.join(labels) or 'none'}.")
    return labels


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
