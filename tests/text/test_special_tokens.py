"""A twin tokenizer reads special tokens that a user typed as text, and everything else as the tokenizer does."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError
from dyntok_jax.text import ByteLevelTokenizer, SpecialNames, TextEncoder
from tests.support.tiny import tiny_decoder_tokenizer
from tests.text.test_text_encoder import trained_tokenizer


@pytest.fixture(scope="module", params=["unigram", "bpe_bytes", "wordpiece"])
def encoder(request, tokenizer):
    if request.param == "unigram":
        return TextEncoder(tokenizer)
    return TextEncoder(ByteLevelTokenizer.convert(trained_tokenizer(request.param), pad_token="[PAD]"))


def read(encoder, texts):
    return [encoder.encode(texts), encoder.encode_static(texts)]


def test_14_4_text_without_special_tokens_is_read_alike(encoder):
    texts = [texts[0] for texts in load_sample().values()]
    for ours, twins in zip(read(encoder, texts), read(encoder.twin, texts), strict=True):
        for name in ("ids_N", "segment_N", "span_N2", "type_N", "is_counted_N"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(twins, name))


def test_14_4_a_typed_special_token_is_text_to_the_twin(encoder):
    names = encoder.special_names
    for token in names.disguises:
        (dynamic, static), inside = read(encoder.twin, [f"a {token} b"]), encoder.tokenizer.special_ids
        for subwords in (dynamic, static):
            typed_N = (subwords.span_N2[:, 1] > 2) & (subwords.span_N2[:, 0] < 2 + len(token))
            assert typed_N.sum() > 1
            assert not set(subwords.ids_N[typed_N].tolist()) & inside
            assert subwords.is_counted_N[typed_N].all()


def test_14_4_a_disguised_one_is_the_token_with_the_spans_of_the_text(encoder):
    names = encoder.special_names
    for token in names.disguises:
        text = f"a {token} b"
        assert names.show(names.swap(text)) == names.swap(names.swap(text)) == text
        for ours, twins in zip(read(encoder, [text]), read(encoder.twin, [names.swap(text)]), strict=True):
            np.testing.assert_array_equal(ours.ids_N, twins.ids_N)
            np.testing.assert_array_equal(ours.span_N2, twins.span_N2)


def test_14_4_merges_never_make_a_special_token_of_text():
    pieces = ["<", "/", "s", ">", "</", "s>", "</s>"]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    own = Tokenizer(models.BPE(vocabulary, [("<", "/"), ("s", ">"), ("</", "s>")]))
    own.add_special_tokens(["</s>"])
    tokenizer = ByteLevelTokenizer.convert(own)
    assert own.encode("</s>").ids == [6]
    twin = SpecialNames.of(tokenizer).twin(tokenizer)
    assert twin.own.encode("</s>").ids == [4, 5]


def test_14_4_a_text_with_a_disguise_in_it_is_refused():
    names = SpecialNames.of(ByteLevelTokenizer.convert(tiny_decoder_tokenizer()))
    names.check_free([{"role": "user", "content": "</s> \U0010fffd"}])
    with pytest.raises(InputError, match=r"private-use character U\+100001"):
        names.check_free([{"role": "user", "content": names.swap("</s>")}])
