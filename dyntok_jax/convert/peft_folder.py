"""LoRA adapters as folders of peft: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dyntok_jax.adapters import (
    HEAD,
    Adapter,
    AdapterMap,
    LoraConfig,
    Replacement,
    hf_names,
    n_input_axes,
    rank_and_scale,
)
from dyntok_jax.convert.bert_checkpoint import classifier_table, encoder_table, plain_name as plain_encoder_name
from dyntok_jax.convert.decoder_checkpoint import decoder_table, plain_name as plain_decoder_name
from dyntok_jax.convert.safetensors import DTYPES, Checkpoint, Table, open_checkpoint, read_config
from dyntok_jax.convert.safetensors_writer import LazyTensor, write_file
from dyntok_jax.errors import CheckpointError
from dyntok_jax.models import (
    Decoder,
    DecoderConfig,
    Encoder,
    EncoderConfig,
    SequenceHead,
    TokenHead,
)
from dyntok_jax.parameters import flat_parameters

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
DOUBLES = (r".*\.(original_module|modules_to_save)\..*", r"score\..*")
"""Names under which peft writes biases of modules saved whole once more."""
ModelConfig = EncoderConfig | DecoderConfig
Place = tuple[str, int | None]


def load_adapter(folder: str | os.PathLike, config: ModelConfig, *, dtype: DTypeLike | None = None) -> Adapter:
    """Loads a LoRA adapter from a folder of peft.

    Args:
      folder: holds `adapter_config.json` and `adapter_model.safetensors`.
      config: of the model that the adapter is for.
      dtype: of its arrays; None: as they are stored.

    Raises:
      ConfigError: the adapter's config asks for what is not supported, by name.
      CheckpointError: files are missing or damaged, or the adapter is of another model; all faults are listed.

    >>> from dyntok_jax.adapters import LoraConfig, fresh_adapter
    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4, targets=("query",)), encoder.encoder)
    >>> save_adapter(folder, adapter, encoder.config)
    >>> load_adapter(folder, encoder.config).maps["layers.query"].ranks
    (4, 4)
    """
    lora, checkpoint = LoraConfig.from_peft(read_config(folder, CONFIG)), open_checkpoint(folder, WEIGHTS)
    shapes, table = _shapes(config), _table(config, SequenceHead) | _table(config, TokenHead)
    kernels = {template.removesuffix(".weight"): path for template, (path, _) in table.items() if ".kernel" in path}
    found: dict[str, dict[int, dict[str, str]]] = {}
    whole: dict[str, dict[int | None, np.ndarray]] = {}
    faults = []
    for name in checkpoint.files:
        plain = _plain(name, config)
        low_rank = re.fullmatch(r"(.*)\.lora_(A|B)\.weight", plain)
        shape = list(checkpoint.shapes[name])
        if any(re.fullmatch(double, plain) for double in DOUBLES):
            continue
        if checkpoint.dtypes[name] not in DTYPES:
            faults.append(f"{name} is {checkpoint.dtypes[name]}, not {', '.join(DTYPES)}")
        elif low_rank and (place := _place(kernels, low_rank[1])):
            path = kernels[place[0]].removesuffix(".kernel")
            found.setdefault(path, {}).setdefault(place[1] or 0, {})[low_rank[2]] = name
        elif not low_rank and (place := _place(table, plain)):
            path, transform = table[place[0]]
            value = np.ascontiguousarray(transform.load(checkpoint.read(name, dtype)))
            expected = shapes.get(path, value.shape)
            if value.shape != (expected if place[1] is None else expected[1:]):
                faults.append(f"{name} is {shape}, which is not the model's shape")
            whole.setdefault(path, {})[place[1]] = value
        else:
            faults.append(f"{name} {shape} belongs to no linear map of the model")
    maps = {}
    for path, layers in sorted(found.items()):
        faults += _map_faults(checkpoint, layers, lora, config, shapes.get(f"{path}.kernel"), n_input_axes(path))
        if not faults:
            maps[path] = _load_map(partial(checkpoint.read, dtype=dtype), path, layers, lora, config, shapes)
    if faults:
        raise CheckpointError(f"The adapter of {folder} is of another model:\n  " + "\n  ".join(sorted(faults)))
    if not maps and not whole:
        raise CheckpointError(f"{Path(folder) / WEIGHTS} holds no tensors: fetch the adapter again.")
    return Adapter(lora, maps, {path: _replacement(rows, config.n_layers) for path, rows in sorted(whole.items())})


def save_adapter(folder: str | os.PathLike, adapter: Adapter, config: ModelConfig) -> None:
    """Writes an adapter as a folder that peft and `load_adapter` read back to the last bit.

    Names are those of the model that peft takes for the config's `task`: an encoder's body alone unless it is `SEQ_CLS`
    or `TOKEN_CLS`; a decoder with its output table unless it is `FEATURE_EXTRACTION`.

    Raises:
      CheckpointError: the folder cannot be written.

    >>> from dyntok_jax.adapters import LoraConfig, fresh_adapter
    >>> adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=4, targets=("query",)), encoder.encoder)
    >>> save_adapter(folder, adapter, encoder.config)
    >>> sorted(path.name for path in folder.iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    is_sequence = adapter.config.task == "SEQ_CLS" or "head.dense.kernel" in adapter.replaced
    table = _table(config, SequenceHead if is_sequence else TokenHead)
    modules = {path.removesuffix(".kernel"): template.removesuffix(".weight") for template, (path, _) in table.items()}
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, tuple[int, float]] = {}
    for path, one in adapter.maps.items():
        for layer, rank in enumerate(one.ranks):
            if rank:
                name = modules[path].replace("{i}", str(layer))
                ranks[name] = rank, one.scales[layer]
                a, b = np.asarray(one.a[layer])[..., :rank], np.asarray(one.b[layer])[:rank]
                tensors[f"{name}.lora_A.weight"] = a.reshape(-1, rank).T
                tensors[f"{name}.lora_B.weight"] = b.reshape(rank, -1).T
    for template, (path, transform) in table.items():
        one = adapter.replaced.get(path)
        if one is None:
            continue
        layers = (one.layers or range(len(one.value))) if "{i}" in template else [None]
        for layer in layers:
            name = template if layer is None else template.replace("{i}", str(layer))
            module, _, last = name.rpartition(".")
            name = f"{module}.base_layer.{last}" if module in ranks else name
            value = np.asarray(one.value if layer is None else one.value[layer])
            tensors[name] = np.asarray(transform.save(value))
    written = {_written(name, config, adapter.config.task): _lazy(values) for name, values in tensors.items()}
    text = json.dumps(_named(adapter, ranks, config).to_peft(), indent=2, sort_keys=True) + "\n"
    try:
        write_file(Path(folder) / WEIGHTS, written, beside={CONFIG: text})
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    module = Encoder if isinstance(config, EncoderConfig) else Decoder
    abstract = jax.eval_shape(partial(module, config), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flat_parameters(abstract).items()}


def _table(config: ModelConfig, kind: type[SequenceHead] | type[TokenHead]) -> Table:
    """Names of the body, without the family's prefix, and of a head."""
    if isinstance(config, DecoderConfig):
        return decoder_table(config)
    head = {name: (HEAD + path, transform) for name, (path, transform) in classifier_table(config, kind).items()}
    return encoder_table(config) | head


def _plain(name: str, config: ModelConfig) -> str:
    name = name.removeprefix(PREFIX).replace(".base_layer.", ".")
    return plain_encoder_name(name) if isinstance(config, EncoderConfig) else plain_decoder_name(name)


def _written(name: str, config: ModelConfig, task: str | None) -> str:
    if isinstance(config, DecoderConfig):
        return PREFIX + (name.removeprefix("model.") if task == "FEATURE_EXTRACTION" else name)
    family = "bert." if config.model_type == "bert" else "roberta."
    is_whole = task in ("SEQ_CLS", "TOKEN_CLS") and not name.startswith("classifier.")
    return PREFIX + (family if is_whole else "") + name


def _place(templates: Sequence[str] | Mapping[str, Any], name: str) -> Place | None:
    """The template that a name is of, and the layer in it."""
    layer = re.search(r"(?<=\.layer\.)\d+(?=\.)|(?<=\.layers\.)\d+(?=\.)", name)
    template = name if layer is None else f"{name[: layer.start()]}{{i}}{name[layer.end() :]}"
    return (template, None if layer is None else int(layer[0])) if template in templates else None


def _map_faults(
    checkpoint: Checkpoint,
    layers: dict[int, dict[str, str]],
    lora: LoraConfig,
    config: ModelConfig,
    shape: tuple[int, ...] | None,
    n_inputs: int,
) -> list[str]:
    faults = []
    for layer, pair in layers.items():
        if set(pair) != {"A", "B"}:
            faults.append(f"{next(iter(pair.values()))} has no lora_{'B' if 'A' in pair else 'A'} beside it")
            continue
        if shape is not None and layer >= config.n_layers:
            faults.append(f"{pair['A']} is of a layer that the model does not have ({config.n_layers} layers)")
            continue
        rank, _ = rank_and_scale(lora, _known_names(pair["A"], config))
        (rank_a, inputs), (outputs, rank_b) = checkpoint.shapes[pair["A"]], checkpoint.shapes[pair["B"]]
        if (rank_a, rank_b) != (rank, rank):
            faults.append(f"{pair['A']} has rank {rank_a}, and the adapter's config says {rank}")
        if shape is not None:
            expected = int(np.prod(shape[1 : 1 + n_inputs])), int(np.prod(shape[1 + n_inputs :]))
            if (inputs, outputs) != expected:
                sizes = f"from {inputs} to {outputs}", f"from {expected[0]} to {expected[1]}"
                faults.append(f"{pair['A']} goes {sizes[0]}, and the model's map {sizes[1]}")
    return faults


def _known_names(tensor: str, config: ModelConfig) -> list[str]:
    """What a module goes by, which has this tensor of an adapter."""
    module = tensor.removeprefix(PREFIX).rpartition(".lora_")[0]
    return [module, _plain(module, config)]


def _load_map(
    read: Callable[[str], np.ndarray],
    path: str,
    layers: dict[int, dict[str, str]],
    lora: LoraConfig,
    config: ModelConfig,
    shapes: dict[str, tuple[int, ...]],
) -> AdapterMap:
    n_layers, shape, n_inputs = config.n_layers, shapes.get(f"{path}.kernel"), n_input_axes(path)
    if shape is None:
        n_layers, shape = 1, (1, read(layers[0]["A"]).shape[1], len(read(layers[0]["B"])))
    known = {layer: rank_and_scale(lora, _known_names(pair["A"], config)) for layer, pair in layers.items()}
    ranks = tuple(known.get(layer, (0, 0.0))[0] for layer in range(n_layers))
    dtype = read(next(iter(layers.values()))["A"]).dtype
    a = np.zeros((n_layers, *shape[1 : 1 + n_inputs], max(ranks)), dtype)
    b = np.zeros((n_layers, max(ranks), *shape[1 + n_inputs :]), dtype)
    for layer, pair in layers.items():
        rank = ranks[layer]
        a[layer, ..., :rank] = read(pair["A"]).T.reshape(*a.shape[1:-1], rank)
        b[layer, :rank] = read(pair["B"]).T.reshape(rank, *b.shape[2:])
    scales = tuple(known.get(layer, (0, 0.0))[1] for layer in range(n_layers))
    return AdapterMap(jnp.asarray(a), jnp.asarray(b), ranks, scales)


def _replacement(rows: dict[int | None, np.ndarray], n_layers: int) -> Replacement:
    if None in rows:
        return Replacement(jnp.asarray(rows[None]))
    layers = tuple(sorted(layer for layer in rows if layer is not None))
    value = np.zeros((n_layers, *rows[layers[0]].shape), rows[layers[0]].dtype)
    for layer in layers:
        value[layer] = rows[layer]
    return Replacement(jnp.asarray(value), None if len(layers) == n_layers else layers)


def _named(adapter: Adapter, ranks: dict[str, tuple[int, float]], config: ModelConfig) -> LoraConfig:
    """The adapter's config, with targets and patterns spelt out by module unless they already mean the same to peft."""
    lora = adapter.config
    known = {name: rank_and_scale(lora, [name]) for name in ranks}
    of_hf = {name.split(".")[-1] for name in hf_names(config).values()}
    own = [lora.targets] if isinstance(lora.targets, str) else lora.targets
    if known == ranks and all(target in of_hf for target in own):
        return lora
    return replace(
        lora,
        targets=tuple(sorted(ranks)),
        excluded=(),
        layers=None,
        rslora=False,
        rank_pattern=tuple((re.escape(name), rank) for name, (rank, _) in ranks.items()),
        alpha_pattern=tuple((re.escape(name), rank * scale) for name, (rank, scale) in ranks.items()),
    )


def _lazy(values: np.ndarray) -> LazyTensor:
    return LazyTensor(values.shape, values.dtype, lambda: values)
