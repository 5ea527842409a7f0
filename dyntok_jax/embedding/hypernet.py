"""The hypernetwork: from a token's subwords to its embedding, in one small transformer.

Minixhofer, Ponti, Vulić, *Zero-Shot Tokenizer Transfer* (ZeTT, arXiv 2405.07883), §3.1, in the form of the released
checkpoints: the subwords' own source rows go in, position 0 of a RoBERTa encoder becomes the embedding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from dyntok_jax.config_numbers import read_numbers
from dyntok_jax.errors import ConfigError
from dyntok_jax.models.layers import (
    Dense,
    LayerNorm,
    dense,
    layer_norm,
    normal_param,
    post_norm_layer,
    stacked_layers,
)

PROJECTOR_EPS = 1e-6
"""Epsilon of the LayerNorm in ZeTT's projector blocks."""

UNSUPPORTED = {
    "hn_concat_last_hidden_state": "all positions concatenated",
    "hn_embed_target_priors": "target priors",
    "hn_add_inter_token_attention": "attention between tokens",
    "hn_language_adapter_bottleneck_dim": "language adapters",
}


@dataclass(frozen=True)
class HypernetConfig:
    """The shape of a ZeTT hypernetwork.

    Attributes:
      width: model width D of the embeddings it predicts.
      hidden_width: width of its transformer.
      ffn_width: feed-forward width of its transformer and projector blocks.
      n_layers: layers of its transformer.
      n_heads: attention heads.
      vocab_size: subword ids below this are rows of the model's table, those above are fallback rows.
      n_extra_tokens: fallback rows (the bytes that no piece of the model's tokenizer stands for).
      pad_token_id: marks padding in released surface forms; here it only sizes the unused word table.
      max_subwords: surface length S it was trained for.
      n_langs: rows of the language table; 0 where the hypernetwork is of one language or none.
      separate_output: whether the model's output table differs from its input table, and is predicted too.
      single_head: one output head whose second half is the output embedding.
      rescale: learned scale and shift of source rows and predictions.
      predict_bias: predicts the unigram bias of a tied masked-LM head.
      residual: adds the mean of the subwords' source rows, so fresh parameters give exactly FVT (ours, not ZeTT's).
      max_positions: rows of the position table (`roberta-base`: 514).
      n_token_types: rows of the token-type table (`roberta-base`: 1).
      norm_eps: epsilon of the transformer's LayerNorms (`roberta-base`: 1e-5).
      langs: codes of the languages in the order of their indices; None where the config only counts them, as ZeTT's do.
    """

    width: int
    hidden_width: int
    ffn_width: int
    n_layers: int
    n_heads: int
    vocab_size: int
    n_extra_tokens: int
    pad_token_id: int = 1
    max_subwords: int = 7
    n_langs: int = 0
    separate_output: bool = False
    single_head: bool = False
    rescale: bool = False
    predict_bias: bool = True
    residual: bool = False
    max_positions: int = 514
    n_token_types: int = 1
    norm_eps: float = 1e-5
    langs: tuple[str, ...] | None = None

    def __post_init__(self):
        names = ("width", "hidden_width", "ffn_width", "n_layers", "n_heads", "vocab_size", "max_subwords")
        least = dict.fromkeys((*names, "n_token_types"), 1) | dict.fromkeys(("n_extra_tokens", "n_langs"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} of the hypernetwork is {getattr(self, name)}: it must be at least {low}.")
        if self.langs is not None and len(self.langs) != self.n_langs:
            raise ConfigError(
                f"The hypernetwork has {self.n_langs} languages and its config names {len(self.langs)}: "
                "langs must be one code each, in the order of their indices."
            )
        if self.hidden_width % self.n_heads:
            raise ConfigError(f"{self.n_heads} heads do not divide the hypernetwork's width of {self.hidden_width}.")
        if self.single_head and not self.separate_output:
            raise ConfigError("hn_single_head needs separate_out_embeddings: one head has nothing to share.")
        if self.max_subwords > self.max_positions:
            raise ConfigError(f"hn_surface_maxlen {self.max_subwords} exceeds the {self.max_positions} positions.")

    @property
    def source_width(self) -> int:
        """Width of a source row: D, or 2·D where input and output tables stand side by side."""
        return 2 * self.width if self.separate_output else self.width

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "HypernetConfig":
        """Reads the dict of a released `config.json`.

        Raises:
          ConfigError: a field is missing, or the config asks for something that is not supported, by name.
        """
        for name, meaning in UNSUPPORTED.items():
            if config.get(name):
                raise ConfigError(f"{name} = {config[name]!r} is not supported ({meaning}).")
        body = config.get("hn_model_type") or "roberta"
        base = config.get("hn_model_name_or_path") or "roberta-base"
        if body != "roberta" or str(base).split("/")[-1] != "roberta-base":
            raise ConfigError(f"A hypernetwork body {body!r} from {base!r} is not supported: only roberta-base is.")
        if not config.get("hn_embed_using_source_embeddings", True):
            raise ConfigError("hn_embed_using_source_embeddings = false is not supported: source rows are its input.")
        needed = ["n_embd", "hn_hidden_size", "hn_intermediate_size", "hn_n_layers", "hn_n_extra_tokens"]
        needed += ["original_vocab_size", "pad_token_id", "hn_surface_maxlen"]
        needed += ["n_langs"] if config.get("hn_embed_lang_id") else []
        # Released configs leave the last three to `roberta-base`; without a number of heads, each is 64 wide.
        optional = {"hn_num_attention_heads": 0, "hn_max_position_embeddings": 514, "hn_type_vocab_size": 1}
        optional["hn_layer_norm_eps"] = 1e-5
        numbers = read_numbers(config, "the hypernetwork", needed=needed, optional=optional)
        hidden = numbers["hn_hidden_size"]
        return cls(
            width=numbers["n_embd"],
            hidden_width=hidden,
            ffn_width=numbers["hn_intermediate_size"],
            n_layers=numbers["hn_n_layers"],
            n_heads=numbers["hn_num_attention_heads"] or max(hidden // 64, 1),
            vocab_size=numbers["original_vocab_size"],
            n_extra_tokens=numbers["hn_n_extra_tokens"],
            pad_token_id=numbers["pad_token_id"],
            max_subwords=numbers["hn_surface_maxlen"],
            n_langs=numbers.get("n_langs", 0),
            separate_output=bool(config.get("separate_out_embeddings", False)),
            single_head=bool(config.get("hn_single_head", False)),
            rescale=bool(config.get("hn_rescale_embeddings", False)),
            predict_bias=bool(config.get("hn_predict_bias", True)),
            residual=bool(config.get("hn_residual", False)),
            max_positions=numbers["hn_max_position_embeddings"],
            n_token_types=numbers["hn_type_vocab_size"],
            norm_eps=numbers["hn_layer_norm_eps"],
            langs=_read_langs(config) if config.get("hn_embed_lang_id") else None,
        )

    def to_hf(self) -> dict[str, Any]:
        """The same config under ZeTT's names (`hn_residual` and what follows it are ours); `from_hf` reads it back."""
        named = {} if self.langs is None else {"langs": list(self.langs)}
        return {
            "model_type": "zett_hypernetwork",
            "hn_model_type": "roberta",
            "hn_model_name_or_path": "roberta-base",
            "hn_embed_using_source_embeddings": True,
            "n_embd": self.width,
            "hn_hidden_size": self.hidden_width,
            "hn_intermediate_size": self.ffn_width,
            "hn_n_layers": self.n_layers,
            "hn_num_attention_heads": self.n_heads,
            "original_vocab_size": self.vocab_size,
            "hn_n_extra_tokens": self.n_extra_tokens,
            "pad_token_id": self.pad_token_id,
            "hn_surface_maxlen": self.max_subwords,
            "hn_embed_lang_id": self.n_langs > 0,
            "n_langs": self.n_langs,
            "separate_out_embeddings": self.separate_output,
            "hn_single_head": self.single_head,
            "hn_rescale_embeddings": self.rescale,
            "hn_predict_bias": self.predict_bias,
            "hn_residual": self.residual,
            "hn_max_position_embeddings": self.max_positions,
            "hn_type_vocab_size": self.n_token_types,
            "hn_layer_norm_eps": self.norm_eps,
            **named,
        }


def _read_langs(config: dict[str, Any]) -> tuple[str, ...] | None:
    codes = config.get("langs")
    if codes is None:
        return None
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise ConfigError(f"langs of the hypernetwork must be a list of language codes, not {codes!r}.")
    return tuple(codes)


class Projector(nnx.Module):
    """ZeTT's residual block: LN(x + gelu(dense2(gelu(dense1(x)))))."""

    def __init__(self, key: Key[Array, ""], width: int, ffn_width: int, dtype: DTypeLike):
        first, second = jax.random.split(key)
        self.dense1 = Dense(first, (width,), (ffn_width,), dtype)
        self.dense2 = Dense(second, (ffn_width,), (width,), dtype)
        self.norm = LayerNorm(width, dtype)


class Scaler(nnx.Module):
    """w·x + b, one number each a column."""

    def __init__(self, width: int, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))


class OutputHead(nnx.Module):
    """A projector block, then a linear map to an embedding; at zero where a residual carries the start."""

    def __init__(self, key: Key[Array, ""], config: HypernetConfig, outputs: int, dtype: DTypeLike):
        first, second = jax.random.split(key)
        self.block = Projector(first, config.hidden_width, config.ffn_width, dtype)
        self.linear = Dense(second, (config.hidden_width,), (outputs,), dtype)
        if config.residual:
            self.linear.kernel = nnx.Param(jnp.zeros_like(self.linear.kernel[...]))


class Hypernet(nnx.Module):
    """Parameters of a hypernetwork, and its config as a static field. Parts that the config lacks are None."""

    def __init__(self, config: HypernetConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32):
        keys = jax.random.split(key, 12)
        hidden, ffn, source = config.hidden_width, config.ffn_width, config.source_width
        self.config = config
        self.fallback_embeddings = normal_param(keys[0], (max(config.n_extra_tokens, 1), source), dtype)
        self.input_linear = Dense(keys[1], (source,), (hidden,), dtype)
        self.input_block = Projector(keys[2], hidden, ffn, dtype)
        self.position_embeddings = normal_param(keys[3], (config.max_positions, hidden), dtype)
        self.type_embeddings = normal_param(keys[4], (config.n_token_types, hidden), dtype)
        # The released body allocates word embeddings that nothing reads; they survive export.
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


class HypernetOutput(NamedTuple):
    """Predictions of a hypernetwork, one row a token.

    Attributes:
      input_UD: input embeddings.
      output_UD: output embeddings; None where the tables are tied.
      bias_U: unigram bias of a tied masked-LM head; None where none is predicted.
    """

    input_UD: Float[Array, "U D"]
    output_UD: Float[Array, "U D"] | None
    bias_U: Float[Array, " U"] | None


def init_hypernet(config: HypernetConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32) -> Hypernet:
    """Fresh parameters; with `config.residual` the first predictions are exactly FVT."""
    return Hypernet(config, key, dtype)


def check_hypernet_fits(
    config: HypernetConfig, *, width: int, vocab_size: int, n_appended: int = 0, separate_output: bool = False
) -> None:
    """Compares a hypernetwork with the model it is to serve.

    Args:
      config: the hypernetwork's.
      width: the model's width D.
      vocab_size: subwords of the model's tokenizer before bytes are appended, which ids the hypernetwork looks up in
        the model's table (a table may have more rows, such as e5-small's 35 spare ones).
      n_appended: bytes and pieces that the tokenizer's byte-level form appended, each of which takes a fallback row.
      separate_output: whether the model has an output table that differs from its input table; an encoder has none.

    Raises:
      ConfigError: the widths or the vocabularies differ, fallback rows are too few, or the hypernetwork predicts an
        output table that the model does not have.
    """
    if config.width != width:
        raise ConfigError(
            f"The hypernetwork predicts embeddings of width {config.width} and the model's width is {width}: "
            "take the hypernetwork that was trained for this model."
        )
    if config.vocab_size != vocab_size:
        raise ConfigError(
            f"The hypernetwork knows a vocabulary of {config.vocab_size} subwords and the model has {vocab_size}: "
            "take the hypernetwork that was trained for this model's tokenizer."
        )
    if config.n_extra_tokens < n_appended:
        raise ConfigError(
            f"The hypernetwork has rows for {config.n_extra_tokens} bytes that no piece stands for and the tokenizer "
            f"needs {n_appended}: take the hypernetwork that was trained for this model's tokenizer."
        )
    if config.separate_output and not separate_output:
        raise ConfigError(
            "The hypernetwork predicts input and output embeddings from two tables and this model has one: take a "
            "hypernetwork with separate_out_embeddings = false, trained for this model."
        )


def predict_embeddings(
    hypernet: Hypernet,
    surface_US: Int[Array, "U S"],
    is_subword_US: Bool[Array, "U S"],
    source_VD: Float[Array, "V M"],
    language: Int[Array, "*rows"] | int | None = None,
) -> HypernetOutput:
    """Predicts the embeddings of tokens from their subwords.

    Args:
      hypernet: the parameters.
      surface_US: subword ids of each token; ids from `config.vocab_size` on are bytes with a fallback row.
      is_subword_US: which entries are subwords, not padding (in ZeTT: surface ≠ pad).
      source_VD: the model's table; where input and output tables differ both side by side, [input ‖ output].
      language: index into the language table, one number or one a token; None for a hypernetwork without languages.

    Returns:
      Finite rows for every token; those of all-padding tokens mean nothing.

    Raises:
      ConfigError: the table is of another width, S exceeds the positions, or a language is missing or not wanted.
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
    if hypernet.out_scaler is not None:
        output_UD = _scale(hypernet.out_scaler, output_UD)
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
        raise ConfigError(f"This hypernetwork is multilingual ({config.n_langs} languages): name one.")
    if not config.n_langs and language is not None:
        raise ConfigError("This hypernetwork knows no languages: leave the language out.")


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
    # Only position 0 is read, so the last layer asks for it alone.
    last = jax.tree.map(lambda stack: stack[-1], hypernet.layers)
    return layer_step(last, x[:, :1], x)[:, 0]


def _project(block: Projector, x: Array) -> Array:
    inner = jax.nn.gelu(dense(block.dense1, x), approximate=True)
    return layer_norm(block.norm, x + jax.nn.gelu(dense(block.dense2, inner), approximate=True), PROJECTOR_EPS)


def _head(head: OutputHead, x_UD: Array) -> Array:
    return dense(head.linear, _project(head.block, x_UD))


def _scale(scaler: Scaler, x: Array) -> Array:
    leading = tuple(range(x.ndim - 1))
    return x * jnp.expand_dims(scaler.scale[...], leading) + jnp.expand_dims(scaler.bias[...], leading)


def _mean_rows(rows_USM: Array, has_row_US: Array, is_subword_US: Array) -> Array:
    """FVT, where bytes without a source row count as zeros."""
    count_U1 = jnp.maximum(is_subword_US.sum(axis=1, keepdims=True), 1).astype(rows_USM.dtype)
    return jnp.einsum("USM,US->UM", rows_USM, has_row_US.astype(rows_USM.dtype)) / count_U1
