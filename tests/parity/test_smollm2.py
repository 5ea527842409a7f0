"""The offline decoder is SmolLM2-135M-Instruct, for PyTorch and for us."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dyntok_jax import DynamicDecoder
from dyntok_jax.assets import load_sample
from dyntok_jax.convert import load_decoder
from dyntok_jax.models import embed_ids, forward, logits

SENTENCES = [
    "The sun rises in the east and sets in the west, and the moon follows it across the night sky.",
    "Water boils at one hundred degrees Celsius, but only when the pressure of the air is normal.",
    "She opened the door, looked outside, and saw that it had been raining for most of the night.",
    "The president of the United States lives in the White House, which is in Washington, D.C.",
    "In the beginning of the twentieth century, many people moved from the countryside to the cities.",
]


PUBLISHED_IDS = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder):
    return AutoTokenizer.from_pretrained(smollm2_folder)


@pytest.fixture(scope="module")
def model(smollm2_folder):
    loaded, info = AutoModelForCausalLM.from_pretrained(smollm2_folder, output_loading_info=True)
    assert not any(info[faults] for faults in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded.eval()


def mean_loss(logits_TV: np.ndarray, ids: list[int]) -> float:
    """Cross-entropy of each next token, in nats."""
    wide = logits_TV[:-1].astype(np.float64)
    log_sum = np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1)) + wide.max(1)
    return float((log_sum - wide[np.arange(len(ids) - 1), ids[1:]]).mean())


@torch.no_grad()
def test_perplexity_is_low_and_the_same_in_pytorch_and_jax(smollm2_folder, tokenizer, model):
    config, decoder = load_decoder(smollm2_folder)
    assert (config.n_layers, config.width, config.n_heads, config.n_kv_heads) == (30, 576, 9, 3)
    ours, theirs = [], []
    for sentence in SENTENCES:
        ids = tokenizer(sentence).input_ids
        padded = jnp.array([[*ids, *[0] * (32 - len(ids))]], jnp.int32)
        hidden_BTD = forward(decoder, embed_ids(decoder, padded), jnp.arange(32)[None] < len(ids))
        ours.append(mean_loss(np.asarray(logits(decoder, hidden_BTD))[0, : len(ids)], ids))
        theirs.append(mean_loss(model(torch.tensor([ids])).logits[0].numpy(), ids))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert np.exp(np.mean(ours)) < 15


@torch.no_grad()
def test_it_says_what_smollm2_says(tokenizer, model):
    def continued(batch, n_tokens):
        length = batch["input_ids"].shape[1]
        return tokenizer.decode(model.generate(**batch, max_new_tokens=n_tokens, do_sample=False)[0, length:])

    gravity = tokenizer("Gravity is", return_tensors="pt")
    assert continued(gravity, 8) == " a fundamental concept in physics that describes the"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert continued(chat, 8) == "The capital of France is Paris.<|im_end|>"


@pytest.fixture(scope="module")
def decoder(smollm2_folder):
    return DynamicDecoder.load(smollm2_folder)


@torch.no_grad()
def test_logits_are_pytorchs_on_20_texts(decoder, tokenizer, model):
    texts = [*load_sample()["en"][:14], *load_sample()["de"][:3], *load_sample()["el"][:3]]
    read = jax.jit(lambda model, ids, mask: logits(model, forward(model, embed_ids(model, ids), mask)))
    largest = difference = 0.0
    for text in texts:
        ids = tokenizer(text).input_ids[:128]
        padded = jnp.array([[*ids, *[0] * (128 - len(ids))]], jnp.int32)
        ours = np.asarray(read(decoder.decoder, padded, jnp.arange(128)[None] < len(ids)))[0, : len(ids)]
        theirs = model(torch.tensor([ids])).logits[0].numpy()
        largest, difference = max(largest, np.abs(theirs).max()), max(difference, np.abs(ours - theirs).max())
    assert difference <= 1e-5 * largest


@torch.no_grad()
def test_greedy_texts_are_pytorchs_on_20_prompts(decoder, model):
    """Each of our tokens is PyTorch's choice too, given all before it, unless its two best lie within 1e-3."""
    prompts = [text[: 20 + 5 * number] for number, text in enumerate(load_sample()["en"][:20])]
    for found in decoder.generate(prompts, goal=None, max_tokens=64):
        prompt = found.prompt_tokens.subword_L.tolist()
        end = [] if found.finish == "length" else [decoder.end_ids[0]]
        ours = [*found.ids, *end]
        rows = model(torch.tensor([prompt + ours])).logits[0, len(prompt) - 1 : -1]
        best = rows.topk(2).values
        differs = rows.argmax(dim=1) != torch.tensor(ours)
        assert (best[differs, 0] - best[differs, 1] <= 1e-3).all()
        assert differs.sum() <= 1


def test_ids_are_the_published_ones(tokenizer):
    for text, ids in PUBLISHED_IDS.items():
        assert tokenizer(text).input_ids == ids
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert (len(tokenizer), tokenizer.model_max_length) == (49152, 8192)
    assert tokenizer("<|im_start|>user").input_ids == [1, 4093]
