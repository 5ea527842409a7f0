"""The Hugging Face config of the model in a GGUF file.

What a file does not say is what llama.cpp assumes (`llama-model.cpp`): of Gemma 3, that every sixth layer has full
attention, that the others turn positions by a base of 10,000, and that only the largest model (62 layers) divides its
queries by the root of width ÷ heads.
"""

from math import pi
from typing import Any

import numpy as np

from dyntok_jax.convert.offline.gguf_reader import GgufFile
from dyntok_jax.convert.offline.gguf_tokenizer import token_id
from dyntok_jax.errors import CheckpointError, ConfigError
from dyntok_jax.models import DecoderConfig, is_number

ROPE_FREQS = "rope_freqs.weight"
UNSUPPORTED = {
    "expert_count": 0,
    "logit_scale": 1,
    "residual_scale": 1,
    "embedding_scale": 1,
    "attention.scale": 0,
    "final_logit_softcapping": 0,
    "attn_logit_softcapping": 0,
}
"""Fields that change what the model computes, with the neutral value of each."""
READ = {
    *("embedding_length", "block_count", "context_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
}
"""Fields that are read here."""
READ_OF = {
    "llama": (),
    "gemma3": ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"),
}
"""And those of one architecture alone."""
INERT = {
    *("rope.scaling.finetuned", "tensor_data_layout"),
    *("expert_used_count", "expert_weights_scale", "expert_feed_forward_length"),  # of experts, which are refused
}
"""Fields that do not change what the model computes."""
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The values of Llama 3.1 and its successors; GGUF keeps only the factors that follow from them."""
GEMMA_PATTERN, GEMMA_LOCAL_BASE, GEMMA_MOST_LAYERS = 6, 10_000.0, 62


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The Hugging Face config of a file's model.

    Raises:
      CheckpointError: fields are missing or not supported.
    """
    width, layers, heads = (_number(file, key) for key in ("embedding_length", "block_count", "attention.head_count"))
    if layers > len(file.tensors):
        raise CheckpointError(
            f"{file.path} says {layers:,} layers, and has {len(file.tensors):,} tensors: fetch it again."
        )
    head_width = _number(file, "attention.key_length", width // heads)
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(
            f"{file.path} has no embedding table (token_embd.weight): the model is incomplete. Fetch it again."
        )
    _check_fields(file, int(head_width))
    config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": head_width,
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": _number(file, "feed_forward_length"),
        "max_position_embeddings": _number(file, "context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": _number(file, "attention.head_count_kv", heads),
        "rms_norm_eps": _shortest(_number(file, "attention.layer_norm_rms_epsilon", takes_fractions=True)),
        "rope_theta": _shortest(_number(file, "rope.freq_base", 10000.0, takes_fractions=True)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "use_cache": True,
        "vocab_size": next(iter(file.tensors["token_embd.weight"].shape), 0),
    }
    for name in ("bos", "eos", "padding"):
        config[f"{name.removesuffix('ding')}_token_id"] = token_id(file.fields, name)
    scaling = _rope_scaling(file, config)
    config |= {"rope_scaling": scaling} if scaling else {}
    config |= _gemma3(file, config) if file.architecture == "gemma3" else _llama()
    if layers:
        try:
            DecoderConfig.from_hf(config)
        except ConfigError as error:
            raise CheckpointError(f"{file.path} holds no model that can be converted: {error}") from error
    return config


def _llama() -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "mlp_bias": False, "model_type": "llama"}


def _gemma3(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    pattern = _number(file, "attention.sliding_window_pattern", GEMMA_PATTERN)
    kinds = ("sliding_attention", "full_attention")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "model_type": "gemma3_text",
        "layer_types": [kinds[pattern > 0 and (number + 1) % pattern == 0] for number in range(layers)],
        "query_pre_attn_scalar": config["hidden_size"] // heads if layers == GEMMA_MOST_LAYERS else config["head_dim"],
        "rope_local_base_freq": _shortest(_number(file, "rope.freq_base_swa", GEMMA_LOCAL_BASE, takes_fractions=True)),
        "sliding_window": _number(file, "attention.sliding_window"),
    }


def _check_fields(file: GgufFile, head_width: int) -> None:
    """Raises CheckpointError for fields that ask for what is not computed, all of them."""
    prefix = f"{file.architecture}."
    asked = {key: _number(file, key, neutral, takes_fractions=True) for key, neutral in UNSUPPORTED.items()}
    asked = {key: value for key, value in asked.items() if value != UNSUPPORTED[key]}
    known = {*READ, *READ_OF[file.architecture], *INERT, *UNSUPPORTED}
    own = [key.removeprefix(prefix) for key in file.fields if key.startswith(prefix)]
    asked |= {key: file.fields[f"{prefix}{key}"] for key in own if key not in known}
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := _number(file, key, head_width)) != head_width:
            asked[key] = value
    if asked:
        said = ", ".join(f"{prefix}{key} = {value}" for key, value in asked.items())
        raise CheckpointError(f"{file.path} needs features that are not supported: {said}.")


def _number(
    file: GgufFile, key: str, default: int | float | None = None, *, takes_fractions: bool = False
) -> int | float:
    """A field of the architecture; if it is a list with a number for each layer, all must be equal.

    A whole number without a default is a size: at least 0 layers, and 1 of everything else.
    """
    value = file.fields.get(f"{file.architecture}.{key}", default)
    numbers = set(value) if isinstance(value, list) else {value}
    is_right = len(numbers) == 1 and all(is_number(one, takes_fractions=takes_fractions) for one in numbers)
    least = 0 if key == "block_count" else 1
    if not is_right or (default is None and not takes_fractions and min(numbers) < least):
        found = "missing" if value is None else f"{value!r}, which is not supported"
        raise CheckpointError(f"{file.path}: the field {file.architecture}.{key} is {found}.")
    return numbers.pop()


def _shortest(number: float | np.float32) -> float:
    """The shortest decimal of a float32, such as 1e-5 again where the model's config had 1e-5."""
    return float(str(np.float32(number)))


def _rope_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any] | None:
    kind = file.fields.get(f"{file.architecture}.rope.scaling.type", "none")
    if ROPE_FREQS in file.tensors:
        return _llama3_scaling(file, config)
    match kind:
        case "none":
            return None
        case "linear":
            factor = _shortest(_number(file, "rope.scaling.factor", takes_fractions=True))
            return {"rope_type": "linear", "factor": factor}
        case "yarn":
            original = _number(file, "rope.scaling.original_context_length")
            factor = _shortest(_number(file, "rope.scaling.factor", takes_fractions=True))
            return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise CheckpointError(f"{file.path} scales its rotary embedding by {kind!r}; only linear and yarn are supported.")


def _llama3_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """The fields from which GGUF's factors were computed: frequencies of long wavelengths are divided by `factor`."""
    factors = file.tensors[ROPE_FREQS].read()
    factor = _shortest(factors.max())
    low, high, original = LLAMA3_ROPE.values()
    frequency = config["rope_theta"] ** (-np.arange(0, config["head_dim"], 2) / config["head_dim"])
    share = np.clip((original * frequency / (2 * pi) - low) / (high - low), 0, 1)
    if not np.allclose(factors, 1 / ((1 - share) / factor + share), rtol=1e-3):
        raise CheckpointError(
            f"{file.path} scales its rotary embedding by factors ({ROPE_FREQS}) other than Llama 3.1's, which are not "
            "supported. Convert the model from its Hugging Face checkpoint."
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA3_ROPE}
