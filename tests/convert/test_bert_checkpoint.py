"""What we write, PyTorch transformers and we ourselves read back to the last bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, RobertaConfig, XLMRobertaConfig

from dyntok_jax.convert import (
    load_encoder,
    load_hypernet,
    load_masked_lm_head,
    save_hypernet,
)
from dyntok_jax.convert.bert_checkpoint import (
    save_encoder,
)
from dyntok_jax.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"
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


@pytest.mark.parametrize("name", ["hypernet_xlmr", "hypernet_mistral", "hypernet_single_head"])
def test_hypernetworks_survive_the_round_trip_bit_for_bit(name, tmp_path):
    config, hypernet = load_hypernet(GOLDEN / name)
    save_hypernet(tmp_path, config, hypernet)
    before, after = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for tensor in before:
        np.testing.assert_array_equal(after[tensor], before[tensor])
    released = json.loads((GOLDEN / name / "config.json").read_text())
    written = json.loads((tmp_path / "config.json").read_text())
    assert {key: written[key] for key in released if key in written}.items() <= released.items()
    again_config, again = load_hypernet(tmp_path)
    assert again_config == config
    jax.tree.map(np.testing.assert_array_equal, hypernet, again)


def test_a_hypernetwork_that_its_config_does_not_fit_is_told(tmp_path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((GOLDEN / "hypernet_xlmr" / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_langs": 27, "hn_predict_bias": False}))
    with pytest.raises(CheckpointError) as error:
        load_hypernet(tmp_path)
    assert "misshapen: lang_embeddings.weight is [26, 64], expected [27, 64]" in str(error.value)
    assert "unknown: bias_projection.bias" in str(error.value)
