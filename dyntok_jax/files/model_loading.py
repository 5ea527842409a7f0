"""A model by name, with its tokenizer and hypernetwork."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar, overload

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dyntok_jax.adapters import fold_adapters
from dyntok_jax.convert import load_adapter, load_decoder, load_encoder, load_hypernet, load_tables, read_config
from dyntok_jax.embedding import Hypernet, HypernetConfig
from dyntok_jax.files.hub import find_hypernet, find_model
from dyntok_jax.models import MODEL_TYPES as DECODER_TYPES, Decoder, DecoderConfig, Encoder, EncoderConfig
from dyntok_jax.sharding import placement
from dyntok_jax.text import ByteLevelTokenizer

Config = TypeVar("Config", bound=EncoderConfig | DecoderConfig)
Parameters = TypeVar("Parameters")


class Tables(NamedTuple):
    """The tables of a decoder without its layers.

    Attributes:
      input_VD: its input table.
      output_VD: its output table; None if it is tied to the input table.

    >>> tables = load_model(decoder_folder, kind="tables").parameters
    >>> tables.input_VD.shape, tables.output_VD.shape
    ((600, 32), (600, 32))
    """

    input_VD: Float[Array, "V D"]
    output_VD: Float[Array, "V D"] | None


@dataclass(frozen=True)
class LoadedModel(Generic[Config, Parameters]):
    """A model as `load_model` returns it.

    Attributes:
      folder: of its files.
      config: its shape.
      parameters: an `Encoder`, a `Decoder`, or the `Tables` of one.
      tokenizer: its tokenizer and the byte-level form of it.
      hypernet: config and parameters of the hypernetwork; None for FVT.
    """

    folder: Path
    config: Config
    parameters: Parameters
    tokenizer: ByteLevelTokenizer
    hypernet: tuple[HypernetConfig, Hypernet] | None


@overload
def load_model(
    model: str | Path,
    hypernet: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    kind: None = None,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    keep_normalizer: bool = True,
    is_stacked: bool = True,
) -> LoadedModel[EncoderConfig, Encoder] | LoadedModel[DecoderConfig, Decoder]: ...


@overload
def load_model(
    model: str | Path,
    hypernet: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    kind: Literal["encoder"],
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    keep_normalizer: bool = True,
) -> LoadedModel[EncoderConfig, Encoder]: ...


@overload
def load_model(
    model: str | Path,
    hypernet: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    kind: Literal["decoder"],
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    keep_normalizer: bool = True,
    is_stacked: bool = True,
) -> LoadedModel[DecoderConfig, Decoder]: ...


@overload
def load_model(
    model: str | Path,
    hypernet: str | Path | None = None,
    *,
    kind: Literal["tables"],
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    keep_normalizer: bool = True,
) -> LoadedModel[DecoderConfig, Tables]: ...


def load_model(
    model: str | Path,
    hypernet: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    kind: Literal["encoder", "decoder", "tables"] | None = None,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    keep_normalizer: bool = True,
    is_stacked: bool = True,
) -> LoadedModel:
    """Loads a model, its tokenizer and a hypernetwork.

    Args:
      model: a folder, a GGUF file, a Hub id, or a packaged model's name (`e5-small`, `smollm2`).
      hypernet: a folder or Hub id of a ZeTT hypernetwork; `auto` for the one that comes with the model, if any;
        None for FVT.
      adapter: a folder of peft with a LoRA adapter, which is multiplied into the weights; not with `tables`.
      kind: `encoder`, `decoder`, or `tables` for only the tables of a decoder; None for whatever the model is.
      dtype: of all parameters.
      mesh: shards the parameters by the rules in `sharding.py`, except tables, which are on the default device.
      keep_normalizer: normalise text as the model was trained; ZeTT and the paper's reference do not.
      is_stacked: stack a decoder's layers, for `lax.scan`; else keep a tuple of layers, as `unstacked` returns it.

    Raises:
      ModelNotFoundError: there is no model of that name.
      ConfigError: the config is not supported or not of this kind, or the mesh does not divide the parameters.
      CheckpointError: files are missing or damaged, tensors do not match the config, or the adapter not the model.
      TokenizerError: the tokenizer cannot be brought to byte-level form.

    >>> loaded = load_model(encoder_folder, hypernet_folder)
    >>> type(loaded.parameters).__name__, loaded.hypernet[0].max_subwords
    ('Encoder', 7)
    """
    folder, place = find_model(model), placement(mesh)
    tokenizer = ByteLevelTokenizer.load(folder, keep_normalizer=keep_normalizer)
    if kind is None:
        kind = "decoder" if read_config(folder).get("model_type") in DECODER_TYPES else "encoder"
    if kind == "encoder":
        config, parameters = load_encoder(folder, dtype=dtype, shardings=place)
    elif kind == "decoder":
        config, parameters = load_decoder(folder, dtype=dtype, shardings=place, is_stacked=is_stacked)
    else:
        config = DecoderConfig.from_hf(read_config(folder))
        parameters = Tables(*load_tables(folder, dtype=dtype))
    if adapter is not None and not isinstance(parameters, Tables):
        parameters = fold_adapters(parameters, [load_adapter(adapter, config)])
    found = find_hypernet(hypernet, model)
    loaded = None if found is None else load_hypernet(found, dtype=dtype, shardings=place)
    return LoadedModel(folder, config, parameters, tokenizer, loaded)
