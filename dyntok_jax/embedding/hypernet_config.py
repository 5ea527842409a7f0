"""The shape of a hypernetwork: reads and writes ZeTT's config.json, and checks that it fits a model.

Minixhofer, Ponti, Vulić, *Zero-Shot Tokenizer Transfer* (ZeTT, arXiv 2405.07883), as released.
"""

from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import ConfigError
from dyntok_jax.models import check_at_least, check_epsilon, check_fields, read_flag, read_numbers

UNSUPPORTED = {
    "hn_concat_last_hidden_state": "all positions concatenated",
    "hn_embed_target_priors": "target priors",
    "hn_add_inter_token_attention": "attention between tokens",
    "hn_language_adapter_bottleneck_dim": "language adapters",
}


_NEEDED = ("hn_hidden_size", "hn_intermediate_size", "hn_n_layers", "hn_n_extra_tokens", "hn_surface_maxlen")
_OPTIONAL = ("hn_num_attention_heads", "hn_max_position_embeddings", "hn_type_vocab_size", "hn_layer_norm_eps")
_FLAGS = ("hn_embed_lang_id", "hn_single_head", "hn_rescale_embeddings", "hn_predict_bias", "hn_residual")
_BODY = ("hn_model_type", "hn_model_name_or_path", "hn_embed_using_source_embeddings")
_COUNTS = ("hn_read_layers", "hn_read_prefix")
_INERT = (
    "hn_inter_token_attention_bias_by_priors",
    "hn_inter_token_attention_bias_scaler",
    "hn_n_inter_token_blocks",
)
"""Of attention between tokens, which is refused where it is asked for."""


@dataclass(frozen=True)
class HypernetConfig:
    """The shape of a ZeTT hypernetwork.

    Attributes:
      width: model width D of the embeddings it predicts.
      hidden_width: width of its transformer.
      ffn_width: feed-forward width of its transformer and projector blocks.
      n_layers: layers of its transformer.
      n_heads: attention heads.
      vocab_size: subword ids below this are rows of the model's table, the others fallback rows.
      n_extra_tokens: fallback rows (for the bytes that the model's tokenizer has no piece for).
      pad_token_id: marks padding in released surface forms; here it only sizes the unused word table.
      max_subwords: surface length S it was trained for.
      n_langs: rows of the language table; 0 for a hypernetwork that does not tell languages apart.
      separate_output: whether the model's output table differs from its input table, and is predicted too.
      single_head: one output head whose second half is the output embedding.
      rescale: learned scale and shift of source rows and predictions.
      predict_bias: predicts the unigram bias of a tied masked-LM head.
      residual: adds the mean of the subwords' source rows, so fresh parameters give exactly FVT (ours, not ZeTT's).
      read_layers: adds a linear map of what a decoder has made of the last subword after so many of its layers,
        ascending (0: its source row), when it reads the token's subwords alone (ours, not ZeTT's).
      read_prefix: subwords that are read before them, such as the one that begins a text.
      max_positions: rows of the position table (`roberta-base`: 514).
      n_token_types: rows of the token-type table (`roberta-base`: 1).
      norm_eps: epsilon of the transformer's LayerNorms (`roberta-base`: 1e-5).
      langs: codes of the languages in the order of their indices; None where the config only counts them, as ZeTT's do.

    >>> HypernetConfig(width=384, hidden_width=256, ffn_width=512, n_layers=2, n_heads=4, vocab_size=250_037,
    ...     n_extra_tokens=103, separate_output=True).source_width
    768
    >>> HypernetConfig.from_hf(hypernet_config.to_hf()) == hypernet_config
    True
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
    read_layers: tuple[int, ...] = ()
    read_prefix: tuple[int, ...] = ()
    max_positions: int = 514
    n_token_types: int = 1
    norm_eps: float = 1e-5
    langs: tuple[str, ...] | None = None

    def __post_init__(self):
        positive = ("width", "hidden_width", "ffn_width", "n_layers", "n_heads", "vocab_size", "max_subwords")
        least: dict[str, int | float] = {name: 1 for name in (*positive, "n_token_types")}  # noqa: C420
        least |= {"n_extra_tokens": 0, "n_langs": 0}
        check_at_least(self, least, of="the hypernetwork")
        check_epsilon("hn_layer_norm_eps", self.norm_eps, of="the hypernetwork")
        if self.langs is not None and len(self.langs) != self.n_langs:
            raise ConfigError(
                f"The hypernetwork has {self.n_langs} languages and its config names {len(self.langs)}: "
                "langs must be one code each, in the order of their indices."
            )
        if self.hidden_width % self.n_heads:
            raise ConfigError(f"{self.n_heads} heads do not divide the hypernetwork's width of {self.hidden_width}.")
        if self.single_head and not self.separate_output:
            raise ConfigError("hn_single_head needs separate_out_embeddings: one head has nothing to share.")
        if self.read_layers and (self.separate_output or sorted(set(self.read_layers)) != list(self.read_layers)):
            raise ConfigError(
                f"hn_read_layers {list(self.read_layers)} must ascend, and are for models whose tables are tied."
            )
        if self.max_subwords > self.max_positions:
            raise ConfigError(f"hn_surface_maxlen {self.max_subwords} exceeds the {self.max_positions} positions.")

    @property
    def source_width(self) -> int:
        """Width of a source row: D, or 2·D where input and output tables are concatenated."""
        return 2 * self.width if self.separate_output else self.width

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "HypernetConfig":
        """Reads the dict of a released `config.json`.

        Raises:
          ConfigError: a field is missing, or has a value that is not supported; the field is named.
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
        # what is not ZeTT's is `roberta-base`'s, whose body is replaced
        own = {name: value for name, value in config.items() if name.startswith("hn_")}
        read = {*_NEEDED, *_OPTIONAL, *_FLAGS, *_BODY, *_COUNTS, *UNSUPPORTED}
        check_fields(own, "the hypernetwork", read=read, also=_INERT)
        is_set = {
            name: read_flag(config, name, name == "hn_predict_bias", "the hypernetwork")
            for name in (*_FLAGS, "separate_out_embeddings")
        }
        needed = [*_NEEDED, "n_embd", "original_vocab_size", "pad_token_id"]
        needed += ["n_langs"] if is_set["hn_embed_lang_id"] else []
        # Released configs leave the last three to `roberta-base`; without a number of heads, each is 64 wide.
        optional = {"hn_num_attention_heads": 0, "hn_max_position_embeddings": 514, "hn_type_vocab_size": 1}
        numbers, fractions = read_numbers(
            config, "the hypernetwork", needed=needed, whole=optional, fractions={"hn_layer_norm_eps": 1e-5}
        )
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
            separate_output=is_set["separate_out_embeddings"],
            single_head=is_set["hn_single_head"],
            rescale=is_set["hn_rescale_embeddings"],
            predict_bias=is_set["hn_predict_bias"],
            residual=is_set["hn_residual"],
            read_layers=_read_counts(config, "hn_read_layers"),
            read_prefix=_read_counts(config, "hn_read_prefix"),
            max_positions=numbers["hn_max_position_embeddings"],
            n_token_types=numbers["hn_type_vocab_size"],
            norm_eps=fractions["hn_layer_norm_eps"],
            langs=_read_langs(config) if is_set["hn_embed_lang_id"] else None,
        )

    def to_hf(self) -> dict[str, Any]:
        """The same config under ZeTT's names (`hn_residual` and what follows it are ours); `from_hf` reads it back."""
        named: dict[str, Any] = {} if self.langs is None else {"langs": list(self.langs)}
        if self.read_layers:
            named |= {"hn_read_layers": list(self.read_layers), "hn_read_prefix": list(self.read_prefix)}
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


def _read_counts(config: dict[str, Any], name: str) -> tuple[int, ...]:
    numbers = config.get(name, [])
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ConfigError(f"{name} of the hypernetwork must be a list of whole numbers, 0 or more, got {numbers!r}.")
    return tuple(numbers)


def _read_langs(config: dict[str, Any]) -> tuple[str, ...] | None:
    codes = config.get("langs")
    if codes is None:
        return None
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise ConfigError(f"langs of the hypernetwork must be a list of language codes, got {codes!r}.")
    return tuple(codes)


def check_hypernet_fits(
    config: HypernetConfig, *, width: int, vocab_size: int, n_appended: int = 0, separate_output: bool = False
) -> None:
    """Checks that a hypernetwork fits a model.

    Args:
      config: the hypernetwork's.
      width: the model's width D.
      vocab_size: subwords of the model's tokenizer before bytes are appended: ids that the hypernetwork looks up in
        the model's table (which may have more rows, such as e5-small's 35 spare ones).
      n_appended: bytes and pieces that the tokenizer's byte-level form appended, each of which takes a fallback row.
      separate_output: whether the model has an output table that differs from its input table; an encoder has none.

    Raises:
      ConfigError: the widths or the vocabularies differ, there are too few fallback rows, or the hypernetwork predicts
        an output table that the model does not have.

    >>> check_hypernet_fits(hypernet_config, width=64, vocab_size=hypernet_config.vocab_size)
    Traceback (most recent call last):
    dyntok_jax.errors.ConfigError: The hypernetwork predicts embeddings of width 32 and the model's width is 64: ...
    """
    if config.width != width:
        raise ConfigError(
            f"The hypernetwork predicts embeddings of width {config.width} and the model's width is {width}: "
            "use the hypernetwork that was trained for this model."
        )
    if config.vocab_size != vocab_size:
        raise ConfigError(
            f"The hypernetwork has a vocabulary of {config.vocab_size} subwords and the model has {vocab_size}: "
            "use the hypernetwork that was trained for this model's tokenizer."
        )
    if config.n_extra_tokens < n_appended:
        raise ConfigError(
            f"The hypernetwork has fallback rows for {config.n_extra_tokens} bytes and the tokenizer needs "
            f"{n_appended}: use the hypernetwork that was trained for this model's tokenizer."
        )
    if config.separate_output and not separate_output:
        raise ConfigError(
            "The hypernetwork predicts input and output embeddings from two tables and this model has one: use a "
            "hypernetwork with separate_out_embeddings = false, trained for this model."
        )
