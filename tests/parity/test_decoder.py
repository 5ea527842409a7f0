"""Decoders of all families: the logits of PyTorch transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from dyntok_jax.convert import load_decoder
from dyntok_jax.models import embed_ids, forward, logits
from tests.models.test_decoder import all_logits, batch, close

WIDTHS = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}


TORCH_MODELS = {
    "mistral, window of 8": MistralConfig(**WIDTHS, sliding_window=8),
    "llama-3 rope": LlamaConfig(**WIDTHS, rope_parameters=LLAMA3_ROPE),
    "linear rope": LlamaConfig(**WIDTHS, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    "dynamic rope": LlamaConfig(**WIDTHS, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}),
    "yarn": LlamaConfig(
        **WIDTHS,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "wide heads": LlamaConfig(**WIDTHS, head_dim=16),
    "qwen 2.5": Qwen2Config(**WIDTHS),
    "qwen 2.5, yarn, tied": Qwen2Config(
        **WIDTHS,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen 2.5, some windows": Qwen2Config(**WIDTHS, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen 3": Qwen3Config(**WIDTHS, head_dim=16),
    "qwen 3, windows in all layers": Qwen3Config(
        **WIDTHS, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=0
    ),
    "gemma 3": Gemma3TextConfig(
        **WIDTHS,
        head_dim=16,
        sliding_window=8,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma 3, every sixth layer": Gemma3TextConfig(
        **WIDTHS | {"num_hidden_layers": 7}, head_dim=16, query_pre_attn_scalar=16, sliding_window=8
    ),
}


@pytest.mark.parametrize("name", TORCH_MODELS)
def test_logits_are_pytorchs(tmp_path, name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(TORCH_MODELS[name], attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    _, decoder = load_decoder(tmp_path)
    ids, mask = batch([40])
    with torch.no_grad():
        expected = model(torch.tensor(ids.tolist())).logits.numpy()
    close(jax.jit(all_logits)(decoder, ids, mask), expected)
    close(all_logits(decoder, ids, mask), expected)


@torch.no_grad()
def test_predicted_rows_are_scaled_exactly_once(tmp_path):
    """Transformers scales rows of the table alone; a row that is given to it has been scaled before."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(TORCH_MODELS["gemma 3"], attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    _, decoder = load_decoder(tmp_path)
    ids, mask = batch([40])
    mean = decoder.word_embeddings[...][jnp.array([5, 9])].mean(axis=0)  # FVT's row of a merged token
    embeddings = embed_ids(decoder, ids).at[:, 7].set(mean)
    expected = model(inputs_embeds=torch.tensor(np.asarray(embeddings)) * 32**0.5).logits.numpy()
    close(logits(decoder, forward(decoder, embeddings, mask)), expected)
