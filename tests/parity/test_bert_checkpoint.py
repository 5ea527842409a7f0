"""Encoders that we write, PyTorch transformers reads back to the last bit."""

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, RobertaConfig, XLMRobertaConfig

from dyntok_jax.convert import (
    load_encoder,
    load_masked_lm_head,
)
from dyntok_jax.convert.bert_checkpoint import (
    save_encoder,
)

TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}


FAMILIES = {
    "bert": BertConfig(**TINY),
    "roberta": RobertaConfig(**TINY, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**TINY, type_vocab_size=1, layer_norm_eps=1e-5),
}


def same_state(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("family", FAMILIES)
def test_exports_reload_in_pytorch_transformers_bit_for_bit(family, tmp_path):
    torch.manual_seed(0)
    theirs = AutoModelForMaskedLM.from_config(FAMILIES[family]).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    config, encoder = load_encoder(tmp_path / "theirs")
    save_encoder(tmp_path / "ours", config, encoder, load_masked_lm_head(tmp_path / "theirs"))
    assert same_state(AutoModelForMaskedLM.from_pretrained(tmp_path / "ours"), theirs)

    save_encoder(tmp_path / "body", config, encoder)
    body = AutoModel.from_pretrained(tmp_path / "body", add_pooling_layer=False)
    assert same_state(body, theirs.base_model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(
            body.eval()(input_ids=ids).last_hidden_state, theirs.base_model(input_ids=ids).last_hidden_state
        )
