"""The encoder equals PyTorch transformers."""

import jax
import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from dyntok_jax.convert import load_encoder, load_masked_lm_head
from dyntok_jax.models import (
    EncoderConfig,
)
from dyntok_jax.models.bert import (
    encode_ids,
)
from dyntok_jax.models.heads import (
    mlm_logits,
)
from tests.models.test_bert import TINY, assert_close, batch

FAMILIES = {
    "bert": BertConfig(**TINY, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0),
    "bert-relu": BertConfig(**TINY, hidden_act="relu", type_vocab_size=2, pad_token_id=0),
    "bert-gelu_new": BertConfig(**TINY, hidden_act="gelu_new", type_vocab_size=2, pad_token_id=0),
    "roberta": RobertaConfig(**TINY, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    "xlm-roberta": XLMRobertaConfig(**TINY, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
}


def torch_model(hf_config, folder, auto=AutoModelForMaskedLM):
    torch.manual_seed(0)
    model = auto.from_config(hf_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh biases are zero and norms one: nothing would be tested
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_pytorch_transformers(family, tmp_path):
    hf_config = FAMILIES[family]
    theirs = torch_model(hf_config, tmp_path)
    ids, mask, types = batch(hf_config.pad_token_id, types=hf_config.type_vocab_size)
    with torch.inference_mode():
        out = theirs(
            input_ids=torch.tensor(np.asarray(ids), dtype=torch.long),
            attention_mask=torch.tensor(np.asarray(mask), dtype=torch.long),
            token_type_ids=torch.tensor(np.asarray(types), dtype=torch.long),
            output_hidden_states=True,
        )
    config, model = load_encoder(tmp_path)
    hidden = jax.jit(encode_ids)(model, ids, mask, types)
    assert_close(hidden[mask], out.hidden_states[-1].numpy()[mask])
    logits = jax.jit(mlm_logits)(load_masked_lm_head(tmp_path), hidden, model.word_embeddings[...])
    assert_close(logits[mask], out.logits.numpy()[mask])
    assert config.model_type == hf_config.model_type


@pytest.mark.parametrize("hf_config", FAMILIES.values(), ids=FAMILIES)
def test_config_survives_the_way_to_hugging_face_and_back(hf_config):
    config = EncoderConfig.from_hf(hf_config.to_dict())
    assert EncoderConfig.from_hf(config.to_hf()) == config


def test_automodel_checkpoints_load_without_a_prefix(tmp_path):
    theirs = torch_model(FAMILIES["bert"], tmp_path, AutoModel)
    _, model = load_encoder(tmp_path)
    np.testing.assert_array_equal(model.word_embeddings[...], theirs.embeddings.word_embeddings.weight.detach())
