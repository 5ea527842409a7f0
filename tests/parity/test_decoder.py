"""Mistral and Llama: the logits of PyTorch transformers."""

import jax
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from dyntok_jax.convert import load_decoder
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
