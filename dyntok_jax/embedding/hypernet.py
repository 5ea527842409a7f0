"""The hypernetwork: from a token's subwords to its embedding, in one small transformer.

Minixhofer, Ponti, Vulić, *Zero-Shot Tokenizer Transfer* (ZeTT, arXiv 2405.07883), §3.1, in the form of the released
checkpoints: the subwords' source rows go in, position 0 of a RoBERTa encoder becomes the embedding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from dyntok_jax.embedding.hypernet_config import HypernetConfig
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import (
    Decoder,
    Dense,
    LayerNorm,
    dense,
    embed_ids,
    layer_norm,
    normal_param,
    post_norm_layer,
    stacked_layers,
    states_after,
)

PROJECTOR_EPS = 1e-6
"""Epsilon of the LayerNorm in ZeTT's projector blocks."""


class Projector(nnx.Module):
    """ZeTT's residual block: LN(x + gelu(dense2(gelu(dense1(x)))))."""

    def __init__(self, key: Key[Array, ""], width: int, ffn_width: int, dtype: DTypeLike):
        first, second = jax.random.split(key)
        self.dense1 = Dense(first, (width,), (ffn_width,), dtype)
        self.dense2 = Dense(second, (ffn_width,), (width,), dtype)
        self.norm = LayerNorm(width, dtype)


class Scaler(nnx.Module):
    """w·x + b, with one w and one b for each column."""

    def __init__(self, width: int, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))


class OutputHead(nnx.Module):
    """A projector block, then a linear map to an embedding; its kernel starts at zero if the config has a residual."""

    def __init__(self, key: Key[Array, ""], config: HypernetConfig, outputs: int, dtype: DTypeLike):
        first, second = jax.random.split(key)
        self.block = Projector(first, config.hidden_width, config.ffn_width, dtype)
        self.linear = Dense(second, (config.hidden_width,), (outputs,), dtype)
        if config.residual:
            self.linear.kernel = nnx.Param(jnp.zeros_like(self.linear.kernel[...]))


class Hypernet(nnx.Module):
    """Parameters of a hypernetwork, and its config as a static field. Parts that the config lacks are None.

    >>> Hypernet(hypernet_config, jax.random.key(0)).layers.query.kernel.shape  # layers, D, N, H
    (1, 32, 4, 8)
    """

    def __init__(self, config: HypernetConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32):
        keys = jax.random.split(key, 12)
        hidden, ffn, source = config.hidden_width, config.ffn_width, config.source_width
        self.config = config
        self.fallback_embeddings = normal_param(keys[0], (max(config.n_extra_tokens, 1), source), dtype)
        self.input_linear = Dense(keys[1], (source,), (hidden,), dtype)
        self.input_block = Projector(keys[2], hidden, ffn, dtype)
        self.position_embeddings = normal_param(keys[3], (config.max_positions, hidden), dtype)
        self.type_embeddings = normal_param(keys[4], (config.n_token_types, hidden), dtype)
        # The released body has word embeddings that nothing reads; they are kept for export.
        self.unused_word_embeddings = normal_param(keys[5], (config.pad_token_id + 1, hidden), dtype)
        self.embedding_norm = LayerNorm(hidden, dtype)
        self.layers = stacked_layers(keys[6], config.n_layers, hidden, config.n_heads, ffn, dtype)
        self.output_head = OutputHead(keys[7], config, source if config.single_head else config.width, dtype)
        two_heads = config.separate_output and not config.single_head
        self.second_head = OutputHead(keys[8], config, config.width, dtype) if two_heads else None
        self.in_scaler = Scaler(source, dtype) if config.rescale else None
        self.scaler = Scaler(config.width, dtype) if config.rescale else None
        self.out_scaler = Scaler(config.width, dtype) if config.rescale and config.separate_output else None
        self.bias_linear = Dense(keys[9], (hidden,), (1,), dtype) if config.predict_bias else None
        self.lang_embeddings = normal_param(keys[10], (config.n_langs, hidden), dtype) if config.n_langs else None
        n_states = len(config.read_layers) * config.width
        self.state_scaler = Scaler(n_states, dtype) if n_states else None
        self.state_linear = Dense(keys[11], (n_states,), (config.width,), dtype) if n_states else None
        if self.state_linear is not None:
            self.state_linear.kernel = nnx.Param(jnp.zeros_like(self.state_linear.kernel[...]))


class HypernetOutput(NamedTuple):
    """Predictions of a hypernetwork, one row a token.

    Attributes:
      input_UD: input embeddings.
      output_UD: output embeddings; None where the tables are tied.
      bias_U: unigram bias of a tied masked-LM head; None where none is predicted.

    >>> ids_US, source_VD = jnp.array([[300, 301]]), encoder.encoder.word_embeddings[...]
    >>> predicted = predict_embeddings(hypernet, ids_US, jnp.ones((1, 2), bool), source_VD)
    >>> predicted.input_UD.shape, predicted.output_UD
    ((1, 32), None)
    """

    input_UD: Float[Array, "U D"]
    output_UD: Float[Array, "U D"] | None
    bias_U: Float[Array, " U"] | None


def init_hypernet(config: HypernetConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32) -> Hypernet:
    """Fresh parameters; with `config.residual` the first predictions are exactly FVT.

    >>> init_hypernet(hypernet_config, jax.random.key(0)).position_embeddings[...].shape
    (514, 32)
    """
    return Hypernet(config, key, dtype)


def predict_embeddings(
    hypernet: Hypernet,
    surface_US: Int[Array, "U S"],
    is_subword_US: Bool[Array, "U S"],
    source_VD: Float[Array, "V M"],
    language: Int[Array, "*rows"] | int | None = None,
    reader: Decoder | None = None,
) -> HypernetOutput:
    """Predicts the embeddings of tokens from their subwords.

    Args:
      hypernet: the parameters.
      surface_US: subword ids of each token; ids from `config.vocab_size` on are bytes with a fallback row.
      is_subword_US: which entries are subwords, not padding (in ZeTT: surface ≠ pad).
      source_VD: the model's table; where input and output tables differ, both concatenated, [input ‖ output].
      language: index into the language table, one for all or one a token; None for a hypernetwork without languages.
      reader: the decoder that a hypernetwork with `config.read_layers` was trained for; others ignore it.

    Returns:
      Finite rows for every token; those of all-padding tokens mean nothing.

    Raises:
      ConfigError: the table has another width, S exceeds the positions, or a language is missing or not expected, or
        the reader is missing or has too few layers.

    >>> from dataclasses import replace
    >>> from dyntok_jax.embedding import average_embeddings
    >>> surface = jnp.array([[300, 301]]), jnp.ones((1, 2), bool)
    >>> source_VD = encoder.encoder.word_embeddings[...]
    >>> fresh = init_hypernet(replace(hypernet_config, residual=True), jax.random.key(0))
    >>> predicted = predict_embeddings(fresh, *surface, source_VD).input_UD
    >>> bool(jnp.allclose(predicted, average_embeddings(*surface, source_VD), atol=1e-6))
    True
    """
    config = hypernet.config
    _check_arguments(config, surface_US.shape[1], source_VD.shape[1], language)
    ids_US = jnp.where(is_subword_US, surface_US, 0)
    known_US = ids_US < config.vocab_size
    known_rows = source_VD.at[jnp.where(known_US, ids_US, 0)].get(mode="fill", fill_value=0)
    fallback_rows = (
        hypernet.fallback_embeddings[...]
        .at[jnp.where(known_US, 0, ids_US - config.vocab_size)]
        .get(mode="fill", fill_value=0)
    )
    scaled_rows = known_rows if hypernet.in_scaler is None else _scale(hypernet.in_scaler, known_rows)
    rows = jnp.where(known_US[:, :, None], scaled_rows, fallback_rows)

    first = _first_hidden(hypernet, rows, is_subword_US, language)
    predicted = _head(hypernet.output_head, first)
    output_UD = None
    if config.single_head:
        predicted, output_UD = predicted[:, : config.width], predicted[:, config.width :]
    elif hypernet.second_head is not None:
        output_UD = _head(hypernet.second_head, first)
    if hypernet.scaler is not None:
        predicted = _scale(hypernet.scaler, predicted)
    if hypernet.out_scaler is not None and output_UD is not None:
        output_UD = _scale(hypernet.out_scaler, output_UD)
    if hypernet.state_linear is not None and hypernet.state_scaler is not None:
        states_UM = read_states(hypernet, ids_US, is_subword_US, reader)
        predicted = predicted + dense(hypernet.state_linear, _scale(hypernet.state_scaler, states_UM))
    if config.residual:
        mean = _mean_rows(known_rows, known_US & is_subword_US, is_subword_US)
        predicted = predicted + mean[:, : config.width]
        output_UD = None if output_UD is None else output_UD + mean[:, config.width :]
    bias_U = None if hypernet.bias_linear is None else dense(hypernet.bias_linear, first)[:, 0]
    return HypernetOutput(predicted, output_UD, bias_U)


def _check_arguments(config: HypernetConfig, length: int, source_width: int, language: Any) -> None:
    if source_width != config.source_width:
        what = "[input ‖ output] source rows" if config.separate_output else "source rows"
        raise ConfigError(f"The hypernetwork takes {what} of width {config.source_width}, not {source_width}.")
    if length > config.max_positions:
        raise ConfigError(f"Surface forms of {length} subwords exceed the {config.max_positions} positions.")
    if config.n_langs and language is None:
        raise ConfigError(f"This hypernetwork is multilingual ({config.n_langs} languages): give the language.")
    if not config.n_langs and language is not None:
        raise ConfigError("This hypernetwork has no languages: leave the language out.")


def _first_hidden(hypernet: Hypernet, rows_USM: Array, is_subword_US: Array, language: Any) -> Array:
    """The transformer: hidden state of position 0."""
    config = hypernet.config
    count, length = is_subword_US.shape
    x = _project(hypernet.input_block, dense(hypernet.input_linear, rows_USM))
    x = x + hypernet.position_embeddings[...][:length][None] + hypernet.type_embeddings[...][:1][None]
    mask = is_subword_US
    if hypernet.lang_embeddings is not None:
        index_U = jnp.broadcast_to(jnp.asarray(language, jnp.int32), (count,))
        x = jnp.concatenate([x, hypernet.lang_embeddings[...][index_U][:, None]], axis=1)
        mask = jnp.concatenate([mask, jnp.ones((count, 1), bool)], axis=1)
    x = layer_norm(hypernet.embedding_norm, x, config.norm_eps)

    def layer_step(layer, queries, x):
        return post_norm_layer(layer, queries, x, mask, eps=config.norm_eps, activation="gelu")

    all_but_last = jax.tree.map(lambda stack: stack[:-1], hypernet.layers)
    x = jax.lax.scan(lambda x, layer: (layer_step(layer, x, x), None), x, all_but_last)[0]
    # Only position 0 is read, so it is the last layer's only query.
    last = jax.tree.map(lambda stack: stack[-1], hypernet.layers)
    return layer_step(last, x[:, :1], x)[:, 0]


def read_states(hypernet: Hypernet, ids_US: Array, is_subword_US: Array, reader: Decoder | None) -> Array:
    """The last subword's states after each of `config.read_layers`, side by side; the decoder reads tokens alone."""
    layers, prefix = hypernet.config.read_layers, jnp.array(hypernet.config.read_prefix, jnp.int32)
    if reader is None or reader.config.n_layers < layers[-1]:
        found = "none was given" if reader is None else f"this one has {reader.config.n_layers}"
        raise ConfigError(
            f"This hypernetwork reads tokens with the first {layers[-1]} layers of its decoder, and {found}: pass the "
            "decoder that it was trained for."
        )
    prefix_UP = jnp.broadcast_to(prefix[None], (len(ids_US), len(prefix)))
    read_UT = jnp.concatenate([prefix_UP, ids_US], axis=1)
    mask_UT = jnp.concatenate([jnp.ones(prefix_UP.shape, bool), is_subword_US], axis=1)
    last_U11 = jnp.maximum(mask_UT.sum(axis=1, dtype=jnp.int32) - 1, 0)[:, None, None]
    states = states_after(reader, embed_ids(reader, read_UT), mask_UT, layers)
    return jnp.concatenate([jnp.take_along_axis(each, last_U11, axis=1)[:, 0] for each in states], axis=1)


def _project(block: Projector, x: Array) -> Array:
    inner = jax.nn.gelu(dense(block.dense1, x), approximate=True)
    return layer_norm(block.norm, x + jax.nn.gelu(dense(block.dense2, inner), approximate=True), PROJECTOR_EPS)


def _head(head: OutputHead, x_UD: Array) -> Array:
    return dense(head.linear, _project(head.block, x_UD))


def _scale(scaler: Scaler, x: Array) -> Array:
    leading = tuple(range(x.ndim - 1))
    return x * jnp.expand_dims(scaler.scale[...], leading) + jnp.expand_dims(scaler.bias[...], leading)


def _mean_rows(rows_USM: Array, has_row_US: Array, is_subword_US: Array) -> Array:
    """FVT, with bytes that have no source row counted as zeros."""
    count_U1 = jnp.maximum(is_subword_US.sum(axis=1, keepdims=True), 1).astype(rows_USM.dtype)
    return jnp.einsum("USM,US->UM", rows_USM, has_row_US.astype(rows_USM.dtype)) / count_U1
