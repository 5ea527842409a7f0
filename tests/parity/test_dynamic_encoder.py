"""Static encoding equals PyTorch transformers."""

import numpy as np
import torch
from transformers import AutoModel

from dyntok_jax import DynamicEncoder
from dyntok_jax.assets import load_sample


def test_e5_small_equals_pytorch_in_15_languages(e5_small_folder):
    encoder = DynamicEncoder.load(e5_small_folder)
    texts = [text for texts in load_sample().values() for text in texts[:8]]
    found = encoder.encode(texts, goal=None, pooling="none", prefix="query: ")
    model = AutoModel.from_pretrained(e5_small_folder).eval()
    ids = [encoder.tokenizer.own.encode("query: " + text).ids for text in texts]
    largest = difference = 0.0
    for at in range(0, len(texts), 16):
        width = max(map(len, ids[at : at + 16]))
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids[at : at + 16]])
        padded = torch.tensor([row + [1] * (width - len(row)) for row in ids[at : at + 16]])
        with torch.inference_mode():
            hidden = model(input_ids=padded, attention_mask=mask).last_hidden_state.numpy()
        for row, expected in enumerate(hidden):
            ours = found.hidden[at + row]
            expected = expected[: len(ids[at + row])]
            largest, difference = max(largest, np.abs(expected).max()), max(difference, np.abs(ours - expected).max())
            norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(expected, axis=1)
            assert ((ours * expected).sum(axis=1) / norms).min() >= 0.99999
    assert difference <= 1e-4 * largest
