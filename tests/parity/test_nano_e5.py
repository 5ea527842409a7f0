"""The offline encoder as transformers reads it."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from dyntok_jax.assets import load_sample
from tests.convert.test_nano_e5 import pack, tiny_shapes, write


@pytest.fixture(scope="module")
def auto_tokenizer(e5_small_folder):
    return AutoTokenizer.from_pretrained(e5_small_folder)


def test_transformers_and_tokenizers_read_the_same_ids(e5_small_folder, auto_tokenizer):
    fast = PreTrainedTokenizerFast.from_pretrained(e5_small_folder)
    raw = Tokenizer.from_file(str(e5_small_folder / "tokenizer.json"))
    texts = [text for paragraphs in load_sample().values() for text in paragraphs[:10]]
    texts += ["", " ", "a <mask> b", "ﬁ ½ Ⅷ ｶﾞ", "👩‍👩‍👧 \u200b\x00\ufffd", "</s><s>"]
    ids = [raw.encode(text).ids for text in texts]
    assert auto_tokenizer(texts).input_ids == fast(texts).input_ids == ids
    assert auto_tokenizer("a b", "c").input_ids == fast("a b", "c").input_ids == raw.encode("a b", "c").ids


def test_ids_are_the_published_ones_of_xlmr(auto_tokenizer):
    tokenizer = auto_tokenizer
    assert tokenizer("Hello world").input_ids == [0, 35378, 8999, 2]
    assert tokenizer("Hello", "world").input_ids == [0, 35378, 2, 2, 8999, 2]
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 250001]
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.mask_token_id) == (250002, 512, 250001)
    assert tokenizer.convert_ids_to_tokens(tokenizer("A <mask>.").input_ids) == [
        "<s>",
        "▁A",
        "<mask>",
        "▁",
        ".",
        "</s>",
    ]


def test_transformers_loads_every_weight_and_finds_translations(e5_small_folder, auto_tokenizer):
    model, info = AutoModel.from_pretrained(e5_small_folder, add_pooling_layer=False, output_loading_info=True)
    assert not any(info[faults] for faults in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32

    @torch.no_grad()
    def embed(texts):
        batch = auto_tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        means = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means, dim=-1)

    shortest = sorted(range(50), key=lambda index: len(load_sample()["en"][index]))[:30]
    english, german, thai = (embed([load_sample()[code][index] for index in shortest]) for code in ("en", "de", "th"))
    for foreign in (german, thai):
        nearest = (foreign @ english.T).argmax(1)
        assert (nearest == torch.arange(30)).float().mean() > 0.9


def test_transformers_finds_every_tensor_of_a_folder(tmp_path):
    write(pack(tiny_shapes()), tmp_path)
    _, info = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not any(info[faults] for faults in ("missing_keys", "unexpected_keys", "mismatched_keys"))
