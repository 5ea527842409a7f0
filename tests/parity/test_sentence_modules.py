"""Static embeddings of a sentence-transformers folder are those of sentence-transformers."""

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from dyntok_jax import DynamicEncoder
from tests.support.tiny import WIDTH, write_sentence_modules, write_tiny_encoder

TEXTS = ["All human beings are born free and equal in dignity and rights.", "Freiheit", "Hür ve eşit doğarlar."]
DENSE = {
    "weight": np.random.default_rng(0).normal(size=(6, WIDTH)).astype(np.float32),
    "bias": np.linspace(-1, 1, 6, dtype=np.float32),
    "activation_function": "torch.nn.modules.activation.Tanh",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "declared",
    [
        {"pooling": {"pooling_mode_cls_token": True}},  # bge, arctic-embed
        {"pooling": {"pooling_mode_cls_token": True}, "dense": DENSE},  # LaBSE
        {"pooling": {"pooling_mode_max_tokens": True}, "normalizes": False},
        {"pooling": {"pooling_mode_weightedmean_tokens": True}},
        {"pooling": {"pooling_mode_lasttoken": True}},
        {"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}, "normalizes": False},
        {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
        {"pooling": {"pooling_mode_mean_tokens": True}, "longest": 12},
    ],
)
def test_14_1_embeddings_equal_sentence_transformers(tmp_path, declared):
    write_tiny_encoder(tmp_path)
    tokens = {"pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    write_sentence_modules(tmp_path, **declared)
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    theirs, ours = SentenceTransformer(str(tmp_path), device="cpu"), DynamicEncoder.load(tmp_path)
    for prompt_name in (None, "query"):
        expected = theirs.encode(TEXTS, prompt_name=prompt_name)
        found = ours.encode(TEXTS, goal=None, prompt_name=prompt_name, truncate=True).embeddings_ND
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
