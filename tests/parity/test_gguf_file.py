"""GGUF files become Hugging Face folders that PyTorch transformers runs with the same result."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dyntok_jax.convert.offline import write_gguf
from dyntok_jax.errors import CheckpointError
from tests.convert.test_gguf_file import converted
from tests.support.gguf_files import TINY_LLAMA, bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file

IDS = torch.tensor([[5, 300, 17, 499, 2, 2, 80, 41]])


def pytorch_model(weights, *, tied):
    model = LlamaForCausalLM(LlamaConfig(**TINY_LLAMA, tie_word_embeddings=tied)).eval()
    tensors = {name: torch.tensor(array) for name, array in weights.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if tied else [], [])
    return model


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_the_model_before_it_was_permuted(tmp_path, tied):
    weights = tiny_llama(tied=tied)
    source = write_gguf_file(tmp_path / "tiny.gguf", tiny_tensors(weights), bpe_fields() | llama_fields())
    folder = converted(source, tmp_path / "hf")
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[faults] for faults in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded(IDS).logits, pytorch_model(weights, tied=tied)(IDS).logits)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] == tied
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ],
)
def test_rope_scaling_comes_back(tmp_path, scaling):
    tensors, fields = tiny_tensors(tiny_llama()), bpe_fields() | llama_fields()
    if scaling["rope_type"] == "linear":
        fields |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    else:
        config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=scaling | {"rope_theta": 100_000.0})
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        plain = 100_000.0 ** (-np.arange(0, 16, 2) / 16)
        tensors["rope_freqs.weight"] = (plain / scaled.numpy()).astype(np.float32)
    source = write_gguf_file(tmp_path / "r.gguf", tensors, fields)
    config = json.loads((converted(source, tmp_path / "hf") / "config.json").read_text())
    assert config["rope_scaling"] == scaling
    if scaling["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = tensors["rope_freqs.weight"] * np.linspace(1, 2, 8, dtype=np.float32)
        with pytest.raises(CheckpointError, match=r"rope_freqs\.weight.*other than Llama 3\.1's"):
            write_gguf(write_gguf_file(tmp_path / "r.gguf", tensors, fields), tmp_path / "hf")
