"""`dyntok convert` there and back: PyTorch transformers reads the same bits."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from dyntok_jax.cli import main
from dyntok_jax.convert import read_config
from dyntok_jax.files import read_shapes

TINY = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}


TINY |= {"intermediate_size": 40, "max_position_embeddings": 20}
DECODERS = [
    (LlamaForCausalLM, LlamaConfig),
    (MistralForCausalLM, MistralConfig),
    (Qwen2ForCausalLM, Qwen2Config),
    (Qwen3ForCausalLM, Qwen3Config),
    (Gemma3ForCausalLM, Gemma3TextConfig),
]


def convert(*arguments, status=0):
    assert main(["convert", *map(str, arguments)]) == status


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_comes_back_bit_by_bit(family, dtype, tmp_path):
    model, config = family
    config = config(**TINY, num_key_value_heads=1, bos_token_id=7, tie_word_embeddings=model is LlamaForCausalLM)
    model(config).to(getattr(torch, dtype)).save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages }}")
    convert(tmp_path / "hf", tmp_path / "orbax")
    assert {leaf.dtype.name for leaf in read_shapes(tmp_path / "orbax").values()} == {dtype}
    convert(tmp_path / "orbax", tmp_path / "back")
    before, after = (model.from_pretrained(tmp_path / name) for name in ("hf", "back"))
    for name, parameter in before.named_parameters():
        assert parameter.dtype == after.get_parameter(name).dtype
        assert torch.equal(parameter, after.get_parameter(name)), name
    assert read_config(tmp_path / "hf").items() <= read_config(tmp_path / "back").items()
    assert (tmp_path / "back" / "chat_template.jinja").exists()


@pytest.mark.parametrize("family", [(BertForMaskedLM, BertConfig), (XLMRobertaForMaskedLM, XLMRobertaConfig)])
def test_a_masked_lm_head_comes_along(family, tmp_path):
    model, config = family
    model(config(**TINY)).save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "orbax")
    convert(tmp_path / "orbax", tmp_path / "back")
    before = load_file(tmp_path / "hf" / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert all(after[name].tobytes() == tensor.tobytes() for name, tensor in before.items())
    reloaded = model.from_pretrained(tmp_path / "back")
    for name, parameter in model.from_pretrained(tmp_path / "hf").named_parameters():
        np.testing.assert_array_equal(parameter.detach(), reloaded.get_parameter(name).detach())
