"""XLM-R, RoBERTa and BERT: one config, one parameter tree, three pure functions.

Devlin et al. 2019 (BERT), Liu et al. 2019 (RoBERTa), Conneau et al. 2020 (XLM-R). They differ in where positions start
and in token types; the layers are the same. `encode` takes word embeddings, so a batch may mix rows of the
model's table with predicted ones.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from dyntok_jax.errors import ConfigError, TooLongError
from dyntok_jax.models.config_fields import check_fields
from dyntok_jax.models.config_numbers import check_at_least, check_epsilon, read_numbers
from dyntok_jax.models.layers import (
    ACTIVATIONS,
    LayerNorm,
    embed_ids,
    layer_norm,
    normal_param,
    post_norm_layer,
    stacked_layers,
)

MODEL_TYPES = ("bert", "roberta", "xlm-roberta")
LACKING = {
    "modernbert": "ModernBERT's rotary positions, windows of attention and gated feed-forward",
    "deberta": "DeBERTa's scores of content and relative position",
    "deberta-v2": "DeBERTa V3's and mDeBERTa's scores of content and relative position",
}
"""What models of other encoder families need, by their `model_type`."""
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_OPTIONAL = ("max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps", "hidden_act")
_READ = {*_NEEDED, *_OPTIONAL, "position_embedding_type", "is_decoder", "add_cross_attention"}
_INERT = ("tie_word_embeddings",)
"""Of an encoder's fields; a masked-LM head is compared with the word table itself."""


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder.

    Attributes:
      model_type: Hugging Face's name of the family: `bert`, `roberta` or `xlm-roberta`.
      vocab_size: rows of the word table.
      width: model width D.
      n_layers: number of layers.
      n_heads: attention heads; they divide the width.
      ffn_width: feed-forward width F.
      max_positions: rows of the position table.
      n_token_types: rows of the token-type table.
      pad_token_id: id of the padding token; RoBERTa's positions start after it.
      norm_eps: epsilon of every LayerNorm.
      activation: feed-forward activation, by Hugging Face's name.

    >>> config = EncoderConfig("bert", vocab_size=9, width=8, n_layers=1, n_heads=2, ffn_width=16)
    >>> config.max_tokens, EncoderConfig.from_hf(config.to_hf()) == config
    (512, True)
    """

    model_type: str
    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    ffn_width: int
    max_positions: int = 512
    n_token_types: int = 2
    pad_token_id: int = 0
    norm_eps: float = 1e-12
    activation: str = "gelu"

    def __post_init__(self):
        if self.model_type not in MODEL_TYPES:
            raise ConfigError(f"model_type {self.model_type!r} is not supported: use one of {', '.join(MODEL_TYPES)}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"hidden_act {self.activation!r} is not supported: use one of {', '.join(ACTIVATIONS)}.")
        sizes = ("vocab_size", "width", "n_layers", "n_heads", "ffn_width", "max_positions", "n_token_types")
        check_at_least(self, dict.fromkeys(sizes, 1))
        check_epsilon("layer_norm_eps", self.norm_eps, of=f"a {self.model_type} model")
        if self.width % self.n_heads:
            raise ConfigError(f"{self.n_heads} attention heads do not divide a width of {self.width}.")
        if self.max_tokens < 1:
            raise ConfigError(
                f"{self.max_positions} positions from {self.position_offset} on leave no room for a token."
            )

    @property
    def position_offset(self) -> int:
        """Row of the position table for the first token: RoBERTa counts from after the padding id, BERT from 0."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1

    @property
    def max_tokens(self) -> int:
        """The longest sequence, special tokens included."""
        return self.max_positions - self.position_offset

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "EncoderConfig":
        """Reads the dict of a Hugging Face `config.json`.

        Raises:
          ConfigError: a field is missing, or the config asks for something that is not supported, by name.
        """
        model_type = config.get("model_type")
        if model_type not in MODEL_TYPES:
            hint = "Decoders are for DynamicDecoder, `dyntok generate` and `dyntok score`."
            if isinstance(model_type, str) and model_type in LACKING:
                hint = f"{LACKING[model_type]} are not computed here."
            raise ConfigError(
                f"model_type {model_type!r} is not supported as an encoder: use one of {', '.join(MODEL_TYPES)}. {hint}"
            )
        optional = {
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "pad_token_id": 0 if model_type == "bert" else 1,
        }
        numbers, fractions = read_numbers(
            config, f"a {model_type} model", needed=_NEEDED, whole=optional, fractions={"layer_norm_eps": 1e-12}
        )
        positions = config.get("position_embedding_type") or "absolute"
        if positions != "absolute":
            raise ConfigError(f"position_embedding_type {positions!r} is not supported: only 'absolute' is.")
        for flag in ("is_decoder", "add_cross_attention"):
            if config.get(flag):
                raise ConfigError(f"{flag} is set: decoders and cross-attention are not supported, only encoders.")
        check_fields(config, f"a {model_type} model", read=_READ, also=_INERT)
        return cls(
            model_type=model_type,
            vocab_size=numbers["vocab_size"],
            width=numbers["hidden_size"],
            n_layers=numbers["num_hidden_layers"],
            n_heads=numbers["num_attention_heads"],
            ffn_width=numbers["intermediate_size"],
            max_positions=numbers["max_position_embeddings"],
            n_token_types=numbers["type_vocab_size"],
            pad_token_id=numbers["pad_token_id"],
            norm_eps=fractions["layer_norm_eps"],
            activation=str(config.get("hidden_act") or "gelu"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The same config under Hugging Face's names; `from_hf` reads it back equal."""
        return {
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": self.ffn_width,
            "max_position_embeddings": self.max_positions,
            "type_vocab_size": self.n_token_types,
            "pad_token_id": self.pad_token_id,
            "layer_norm_eps": self.norm_eps,
            "hidden_act": self.activation,
            "position_embedding_type": "absolute",
        }


class Encoder(nnx.Module):
    """Parameters of an encoder, and its config as a static field: a pytree for `jax.jit`, `jax.grad` and the rest.

    >>> config = EncoderConfig("bert", vocab_size=9, width=8, n_layers=3, n_heads=2, ffn_width=16)
    >>> Encoder(config, jax.random.key(0)).layers.query.kernel.shape  # layers, D, N, H
    (3, 8, 2, 4)
    """

    def __init__(self, config: EncoderConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32):
        """Draws fresh parameters; wrap it in `jax.eval_shape` for shapes alone."""
        keys = jax.random.split(key, 4)
        self.config = config
        self.word_embeddings = normal_param(keys[0], (config.vocab_size, config.width), dtype)
        self.position_embeddings = normal_param(keys[1], (config.max_positions, config.width), dtype)
        self.type_embeddings = normal_param(keys[2], (config.n_token_types, config.width), dtype)
        self.embedding_norm = LayerNorm(config.width, dtype)
        self.layers = stacked_layers(keys[3], config.n_layers, config.width, config.n_heads, config.ffn_width, dtype)


def encode(
    model: Encoder,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    type_BT: Int[Array, "B T"],
    step_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T D"]:
    """Runs the encoder on word embeddings.

    Args:
      model: the parameters.
      embeddings_BTD: one word embedding a token, without position or type.
      mask_BT: True for tokens; padding is on the right, so position t of a row is its t-th token.
      type_BT: BERT's token types; a model with a single type takes its row 0 for every token.
      step_BT: subwords of each token, for positions that count subwords; None for positions that count tokens. Past
        the last position of the model, a position is its last.

    Returns:
      Hidden states of the last layer, in the dtype of the embeddings; finite but meaningless under a False mask.

    Raises:
      TooLongError: T is more than the model has positions for.

    >>> ids_BT, mask_BT, type_BT = map(jnp.asarray, (batch.ids_BL, batch.mask_BL, batch.type_BL))
    >>> embeddings_BTD = embed_ids(encoder.encoder, ids_BT)
    >>> encode(encoder.encoder, embeddings_BTD, mask_BT, type_BT).shape == embeddings_BTD.shape
    True
    """
    config = model.config
    length = embeddings_BTD.shape[1]
    if length > config.max_tokens:
        raise TooLongError(
            f"The batch is {length} tokens long and the model has positions for {config.max_tokens}: "
            "merge further, truncate or split the texts."
        )
    own_positions_PD = model.position_embeddings[...][config.position_offset :]
    if step_BT is None:
        position_BTD = own_positions_PD[:length][None]
    else:
        position_BTD = own_positions_PD.at[jnp.cumsum(step_BT, axis=1) - step_BT].get(mode="clip")
    if config.n_token_types == 1:
        type_11D = model.type_embeddings[...][None]
        x_BTD = embeddings_BTD + position_BTD + type_11D
    else:
        x_BTD = embeddings_BTD + position_BTD + model.type_embeddings[...][type_BT]
    x_BTD = layer_norm(model.embedding_norm, x_BTD, config.norm_eps)

    def step(x_BTD, layer):
        return post_norm_layer(layer, x_BTD, x_BTD, mask_BT, eps=config.norm_eps, activation=config.activation), None

    return jax.lax.scan(step, x_BTD, model.layers)[0]


def encode_ids(
    model: Encoder,
    ids_BT: Int[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    type_BT: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
    """Static tokenization: `encode` on the source rows of `ids_BT`, with the same arguments.

    >>> config = EncoderConfig("bert", vocab_size=9, width=8, n_layers=1, n_heads=2, ffn_width=16)
    >>> ids_BT = jnp.array([[2, 5, 3]])
    >>> encode_ids(Encoder(config, jax.random.key(0)), ids_BT, ids_BT > 0, jnp.zeros_like(ids_BT)).shape
    (1, 3, 8)
    """
    return encode(model, embed_ids(model, ids_BT), mask_BT, type_BT)
