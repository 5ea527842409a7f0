"""Families of decoders: published configs are read as transformers reads them, and all others refused by name."""

import json
from functools import partial

import jax
import numpy as np
import pytest

from dyntok_jax.convert.decoder_checkpoint import decoder_table
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import Decoder, DecoderConfig, Llama3Scaling, Rope, YarnScaling
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.sharding import make_mesh, shardings_for

# `config.json` of released models, and how many weights those have (tied tables once)
PUBLISHED = {
    "Llama-3.2-1B": (
        """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
        "vocab_size": 128256}""",
        1_235_814_400,
    ),
    "Qwen2.5-0.5B": (
        """{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false, "use_sliding_window": false,
        "vocab_size": 151936}""",
        494_032_768,
    ),
    "Qwen3-0.6B": (
        """{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
        "use_sliding_window": false, "vocab_size": 151936}""",
        596_049_920,
    ),
    "gemma-3-270m": (
        """{"_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "attn_logit_softcapping": null, "bos_token_id": 2, "eos_token_id": 1,
        "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 640, "initializer_range": 0.02, "intermediate_size": 2048,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0, "rope_scaling": null, "rope_theta": 1000000.0,
        "sliding_window": 512, "torch_dtype": "bfloat16", "use_bidirectional_attention": false, "use_cache": true,
        "vocab_size": 262144}""",
        268_098_176,
    ),
    "gemma-3-1b-pt": (
        """{"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
        "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
        "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 262144}""",
        999_885_952,
    ),
}
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
}
KINDS = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]


def read(model_type, **fields):
    return DecoderConfig.from_hf(SIZES | {"model_type": model_type} | fields)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_model_has_a_place_for_every_weight(name):
    text, n_weights = PUBLISHED[name]
    config = DecoderConfig.from_hf(json.loads(text))
    abstract = jax.eval_shape(partial(Decoder, config, dtype=jax.numpy.bfloat16), jax.random.key(0))
    parameters = flat_parameters(abstract)
    assert sum(np.prod(leaf.shape) for leaf in parameters.values()) == n_weights
    assert {path for path, _ in decoder_table(config).values()} == set(parameters)
    assert len(jax.tree.leaves(shardings_for(abstract, make_mesh(8, 1)))) == len(parameters)


def test_what_released_models_compute_is_read():
    read_of = {name: DecoderConfig.from_hf(json.loads(text)) for name, (text, _) in PUBLISHED.items()}
    assert read_of["Llama-3.2-1B"].rope == Rope(5e5, Llama3Scaling(32.0, 1.0, 4.0, 8192))
    assert read_of["Qwen2.5-0.5B"].head_width == 64
    assert {read_of[name].sliding_window for name in ("Llama-3.2-1B", "Qwen2.5-0.5B", "Qwen3-0.6B")} == {None}
    for name in ("gemma-3-270m", "gemma-3-1b-pt"):
        config = read_of[name]
        assert (config.rope, config.sliding_rope, config.sliding_window) == (Rope(1e6), Rope(1e4), 512)
        assert config.full_layers == tuple(range(5, config.n_layers, 6))
        assert config.ties_embeddings
        assert config.query_scalar is None  # that is the head width


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_comes_back(name):
    config = DecoderConfig.from_hf(json.loads(PUBLISHED[name][0]))
    assert DecoderConfig.from_hf(config.to_hf()) == config


WINDOWS = {  # of each fragment the window, and the layers without it
    "qwen without a flag": ("qwen2", {"sliding_window": 8, "max_window_layers": 0}, None, ()),
    "qwen's last layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
        8,
        (0, 1, 2),
    ),
    "qwen's first 28 layers": ("qwen3", {"use_sliding_window": True, "sliding_window": 8}, None, ()),
    "qwen's layer types": ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": KINDS}, 8, (0, 2)),
    "all layers of a qwen": ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, 8, ()),
    "a large window": ("gemma3_text", {}, 4096, ()),
    "gemma's layer types": ("gemma3_text", {"sliding_window": 8, "layer_types": KINDS}, 8, (0, 2)),
    "gemma's pattern": ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 2}, 8, (1, 3)),
    "gemma's pattern, newer": ("gemma3_text", {"sliding_window": 8, "_sliding_window_pattern": 4}, 8, (3,)),
    "gemma without windows": ("gemma3_text", {"layer_types": ["full_attention"] * 4}, None, ()),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_each_layer(name):
    model_type, fields, window, full_layers = WINDOWS[name]
    config = read(model_type, **fields)
    assert (config.sliding_window, config.full_layers) == (window, full_layers)
    assert DecoderConfig.from_hf(config.to_hf()) == config


def test_thetas_of_gemma_are_read_from_both_spellings():
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.5},
        }
    }
    old = {"rope_theta": 2e6, "rope_local_base_freq": 3e4, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    full = Rope(2e6, YarnScaling(4.0, 131_072))
    assert (read("gemma3_text", **new).rope, read("gemma3_text", **new).sliding_rope) == (full, Rope(3e4, share=0.5))
    assert (read("gemma3_text", **old).rope, read("gemma3_text", **old).sliding_rope) == (full, Rope(3e4))
    assert (read("gemma3_text").rope, read("gemma3_text").sliding_rope) == (Rope(1e6), Rope(1e4))


def test_no_number_of_heads_is_the_familys_and_null_is_no_grouping():
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    eight = sizes | {"num_attention_heads": 8}
    kv_heads = {
        name: DecoderConfig.from_hf(eight | {"model_type": name}).n_kv_heads for name in ("llama", "gemma3_text")
    }
    assert kv_heads == {"llama": 8, "gemma3_text": 4}
    many = sizes | {"model_type": "qwen2", "num_attention_heads": 64}
    assert DecoderConfig.from_hf(many).n_kv_heads == 32
    assert DecoderConfig.from_hf(many | {"num_key_value_heads": None}).n_kv_heads == 64


REFUSED = {  # of each fragment what the error names
    "images": ("gemma3", {}, "'gemma3' is not supported as a decoder.*reads images too"),
    "experts": ("qwen3_moe", {}, "'qwen3_moe' is not supported"),
    "bias": ("qwen3", {"attention_bias": True}, "attention_bias = True"),
    "both directions": ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "soft caps": ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
    "soft caps of scores": ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "another activation": ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation 'gelu' is not supported"),
    "an activation of llama's": ("gemma3_text", {"hidden_act": "silu"}, "hidden_act"),
    "an unknown kind": ("gemma3_text", {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
    "too few kinds": ("gemma3_text", {"layer_types": KINDS[:3]}, "name 3 layers"),
    "a window without its length": ("gemma3_text", {"sliding_window": None}, "sliding_attention"),
    "a pattern of nothing": ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    "one rope for two kinds": ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "one object for each kind"),
    "a share without a kind": ("gemma3_text", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "gemma's fields in qwen": ("qwen2", {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar"),
    "qwen's windows in gemma": ("gemma3_text", {"max_window_layers": 2}, "max_window_layers"),
    "windows switched off": ("qwen2", {"layer_types": KINDS}, "layer_types"),
    "full layers in mistral": ("mistral", {"layer_types": ["full_attention"] * 4}, "layer_types"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_name(name):
    model_type, fields, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        read(model_type, **fields)
