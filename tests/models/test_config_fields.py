"""Every field of a config that changes the model is computed or refused: fragments as they are met in the wild."""

from dataclasses import dataclass

import pytest

from dyntok_jax.embedding import HypernetConfig
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import (
    DecoderConfig,
    DynamicScaling,
    EncoderConfig,
    LinearScaling,
    Llama3Scaling,
    Rope,
    YarnScaling,
)
from dyntok_jax.models.config_numbers import check_at_least

LLAMA = {
    "model_type": "llama",
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
MISTRAL = LLAMA | {"model_type": "mistral", "num_key_value_heads": 2}
BERT = LLAMA | {"model_type": "bert"}
HYPERNET = {
    "n_embd": 8,
    "hn_hidden_size": 64,
    "hn_intermediate_size": 16,
    "hn_n_layers": 1,
    "hn_n_extra_tokens": 3,
    "original_vocab_size": 9,
    "pad_token_id": 1,
    "hn_surface_maxlen": 7,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
COMPUTED = {  # of each fragment the rotary positions
    "llama 2": ({"rope_scaling": None, "pretraining_tp": 1, "use_cache": True}, Rope()),
    "old base": ({"rope_theta": 500_000.0}, Rope(500_000.0)),
    "transformers 5": ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, Rope(1e6)),
    "theta alone": ({"rope_parameters": {"rope_theta": 1e6}}, Rope(1e6)),
    "whole heads": ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 1.0}}, Rope(1e6)),
    "half heads": ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, Rope(1e6, share=0.5)),
    "half heads, old spelling": ({"partial_rotary_factor": 0.5}, Rope(share=0.5)),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, Rope(scaling=LinearScaling(4.0))),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, Rope(scaling=DynamicScaling(2.0))),
    "llama 3.2": (
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        Rope(5e5, Llama3Scaling(32.0, 1.0, 4.0, 8192)),
    ),
    "both spellings": (
        {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_theta": 5e5},
        Rope(5e5, Llama3Scaling(32.0, 1.0, 4.0, 8192)),
    ),
    "qwen 2.5 of long texts": ({"rope_scaling": YARN | {"finetuned": True}}, Rope(scaling=YarnScaling(4.0, 32768))),
    "yarn by default from all positions": (
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        Rope(scaling=YarnScaling(4.0, 2048)),
    ),
    "yarn with everything": (
        {
            "rope_parameters": YARN
            | {"beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5, "truncate": False, "rope_theta": 1e6}
            | {"mscale": 0.7, "mscale_all_dim": 0.5, "partial_rotary_factor": 0.25}
        },
        Rope(1e6, YarnScaling(4.0, 32768, 16.0, 2.0, 1.5, 0.7, 0.5, truncate=False), share=0.25),
    ),
    "full layers": ({"layer_types": ["full_attention"] * 2}, Rope()),
    "neutral": ({"attention_bias": False, "partial_rotary_factor": 1.0, "quantization_config": None}, Rope()),
}
REFUSED = {  # of each fragment what the error names
    "no type": ({"rope_scaling": {"factor": 2.0}}, "factor and no rope_type"),
    "no type, new spelling": ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "factor and no rope_type"),
    "by kind of layer": (
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
        "by kind of layer",
    ),
    "no pairs": ({"partial_rotary_factor": 0.4}, "of which 3 are turned, is odd"),
    "two shares": (
        {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}},
        "several partial_rotary_factor",
    ),
    "more than heads": ({"partial_rotary_factor": 2.0}, "partial_rotary_factor is 2.0"),
    "proportional": ({"rope_parameters": {"rope_type": "proportional"}}, "'proportional' is not supported"),
    "yarn without a factor": ({"rope_scaling": {"rope_type": "yarn"}}, "'yarn' has no factor"),
    "yarn upside down": ({"rope_scaling": YARN | {"beta_fast": 1, "beta_slow": 2}}, "beta_slow 2.0 must be"),
    "yarn with text": ({"rope_scaling": YARN | {"truncate": "no"}}, "truncate of .* must be true or false"),
    "yarn without sections": ({"rope_scaling": YARN | {"mrope_section": [1, 2]}}, "has mrope_section, which is not"),
    "longrope": ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "'longrope' is not supported"),
    "dynamic from elsewhere": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}},
        "original_max_position_embeddings, which is not",
    ),
    "attention factor": ({"rope_scaling": {"type": "linear", "factor": 2.0, "attention_factor": 1.2}}, "attention_fac"),
    "default that scales": ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "factor, which is not"),
    "llama3 without its factors": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "no low_freq_factor"),
    "two bases": ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "several rope_theta"),
    "two types": ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, "'linear' and type 'yarn'"),
    "two scalings": ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "linear", "factor": 2}}, "disagree"),
    "a base past all floats": ({"rope_theta": 10**400}, "rope_theta"),
    "a list": ({"rope_scaling": [2.0]}, "must be an object"),
    "no rope in some layers": ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
    "quantised": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    "scaled embeddings": ({"embedding_multiplier": 12.0}, "embedding_multiplier = 12.0"),
    "soft caps": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "bias": ({"attention_bias": True}, "attention_bias = True"),
    "a flag as text": ({"tie_word_embeddings": "false"}, "must be true or false"),
    "sliding Llama": ({"sliding_window": 16}, "sliding_window = 16 of a llama model"),
    "experts": ({"num_local_experts": 8, "num_experts_per_tok": 2}, "num_local_experts"),
    "code of its own": ({"auto_map": {"AutoModel": "modeling_own.Own"}}, "auto_map"),
    "infinite epsilon": ({"rms_norm_eps": float("inf")}, "rms_norm_eps"),
    "absurd epsilon": ({"rms_norm_eps": 1e6}, "rms_norm_eps"),
    "negative epsilon": ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
    "a size past all integers": ({"num_hidden_layers": 10**30}, "num_hidden_layers"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_02_fields_that_are_computed(name):
    fragment, rope = COMPUTED[name]
    config = DecoderConfig.from_hf(LLAMA | fragment)
    assert config.rope == rope
    assert DecoderConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("name", REFUSED)
def test_02_fields_that_change_the_model_are_refused(name):
    fragment, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        DecoderConfig.from_hf(LLAMA | fragment)


def test_02_windows_are_those_of_all_layers():
    assert DecoderConfig.from_hf(MISTRAL | {"sliding_window": 8}).sliding_window == 8
    assert DecoderConfig.from_hf(MISTRAL | {"sliding_window": None}).sliding_window is None
    assert DecoderConfig.from_hf(LLAMA | {"sliding_window": 4096}).sliding_window is None  # of 2048 positions
    with pytest.raises(ConfigError, match="layer_types"):
        DecoderConfig.from_hf(MISTRAL | {"layer_types": ["sliding_attention", "full_attention"]})


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"embedding_size": 16}, "embedding_size = 16"),
        ({"layer_norm_eps": 1e4}, "layer_norm_eps"),
        ({"feed_forward_type": "geglu"}, "feed_forward_type"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"rope_theta": 10_000.0}, "rope_theta"),
        ({"model_type": "modernbert"}, "'modernbert' is not supported as an encoder.*ModernBERT's rotary positions"),
        ({"model_type": "deberta-v2"}, "'deberta-v2' is not supported as an encoder.*mDeBERTa's scores of content"),
        ({"model_type": "qwen3"}, "'qwen3' is not supported as an encoder.*Decoders are for DynamicDecoder"),
    ],
)
def test_02_encoders_refuse_what_they_do_not_compute(fragment, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_hf(BERT | fragment)


def test_02_a_hypernetwork_refuses_what_it_does_not_compute():
    assert HypernetConfig.from_hf(HYPERNET | {"hn_n_inter_token_blocks": 16, "hidden_dropout_prob": 0.1}).width == 8
    for fragment, message in (
        ({"hn_gating": True}, "hn_gating"),
        ({"hn_single_head": "no"}, "must be true or false"),
        ({"hn_layer_norm_eps": 7.0}, "hn_layer_norm_eps"),
    ):
        with pytest.raises(ConfigError, match=message):
            HypernetConfig.from_hf(HYPERNET | fragment)


@pytest.mark.parametrize("name", ["head_dim", "hidden_size", "max_position_embeddings"])
def test_sizes_with_a_point_are_whole_numbers_or_refused(name):
    config = DecoderConfig.from_hf(LLAMA | {name: 64.0})
    assert config == DecoderConfig.from_hf(LLAMA | {name: 64})
    assert all(isinstance(size, int) for size in (config.width, config.head_width, config.max_positions))
    with pytest.raises(ConfigError, match=f"lacks a number for: {name}"):
        DecoderConfig.from_hf(LLAMA | {name: 64.5})


@dataclass
class Sizes:
    """A config whose types nothing checks, as outside of tests."""

    head_width: int
    factor: float = 1.0


@pytest.mark.parametrize("value", [64.0, 64.5, True, "64", None])
def test_a_config_made_by_hand_has_whole_sizes(value):
    with pytest.raises(ConfigError, match=f"head_width is {value!r}: it must be a whole number"):
        check_at_least(Sizes(value), {"head_width": 1})
    check_at_least(Sizes(64, factor=1.5), {"head_width": 1, "factor": 1})
