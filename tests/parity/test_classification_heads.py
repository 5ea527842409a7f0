"""Heads that classify sequences and tokens equal PyTorch transformers', and are written as it reads them."""

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from dyntok_jax.convert import load_encoder, load_sequence_head, load_token_head, save_encoder
from dyntok_jax.models import classify_sequences, classify_tokens, encode_ids
from tests.models.test_bert import assert_close, batch
from tests.parity.test_bert import FAMILIES, torch_model
from tests.parity.test_bert_checkpoint import same_state

LABELS = ("entailment", "neutral", "contradiction")
HEADS = {
    "sequences": (AutoModelForSequenceClassification, load_sequence_head, classify_sequences),
    "tokens": (AutoModelForTokenClassification, load_token_head, classify_tokens),
}


def labelled(family):
    config = FAMILIES[family].from_dict(FAMILIES[family].to_dict())
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: i for i, name in enumerate(LABELS)}
    return config


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_equals_pytorch_transformers_and_survives_the_way_back(family, kind, tmp_path):
    auto, load_head, classify = HEADS[kind]
    hf_config = labelled(family)
    theirs = torch_model(hf_config, tmp_path / "theirs", auto)
    ids, mask, types = batch(hf_config.pad_token_id, types=hf_config.type_vocab_size)
    with torch.inference_mode():
        out = theirs(
            input_ids=torch.tensor(np.asarray(ids), dtype=torch.long),
            attention_mask=torch.tensor(np.asarray(mask), dtype=torch.long),
            token_type_ids=torch.tensor(np.asarray(types), dtype=torch.long),
        ).logits.numpy()
    (config, encoder), head = load_encoder(tmp_path / "theirs"), load_head(tmp_path / "theirs")
    logits = jax.jit(classify)(head, jax.jit(encode_ids)(encoder, ids, mask, types))
    chosen = np.asarray(mask) if kind == "tokens" else slice(None)
    assert_close(logits[chosen], out[chosen])
    assert head.labels == LABELS

    save_encoder(tmp_path / "ours", config, encoder, head)
    read_back = auto.from_pretrained(tmp_path / "ours")
    assert same_state(read_back, theirs)
    assert read_back.config.id2label == dict(enumerate(LABELS))
