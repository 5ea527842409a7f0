"""Prompts and continuations that are given as ids are read as they are, which evaluation harnesses need."""

import pytest

from dyntok_jax import DynamicDecoder, Share
from dyntok_jax.decoding import begin_id
from dyntok_jax.errors import InputError, TooLongError
from tests.support.tiny import write_tiny_decoder

TEXTS = ["Alle Menschen sind frei", "All human beings"]
POSITIONS = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    write_tiny_decoder(folder, max_positions=POSITIONS, begins=True)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return DynamicDecoder.load(folder)


def ids_of(decoder, text, **options):
    return decoder.tokenizer.own.encode(text, **options).ids


def test_ids_are_read_as_the_text_that_they_are_of(decoder):
    prompts = [ids_of(decoder, text) for text in TEXTS]
    after = [ids_of(decoder, " und gleich", add_special_tokens=False)] * 2
    scored, expected = decoder.score(prompts, after), decoder.score(TEXTS, [" und gleich"] * 2)
    for one, other in zip(scored, expected, strict=True):
        assert (one.text, one.ids) == (other.text, other.ids)
        assert one.total == pytest.approx(other.total, abs=1e-5)
        assert (one.n_static, one.n_tokens) == (other.n_static, other.n_tokens)  # `<s>` is not counted
    written = [text.text for text in decoder.generate(prompts, max_tokens=6)]
    assert written == [text.text for text in decoder.generate(TEXTS, max_tokens=6)]


def test_a_text_may_end_one_token_after_the_last_position(decoder):
    prompt, token = [decoder.begin_id], ids_of(decoder, "e", add_special_tokens=False)[:1]
    (scored,) = decoder.score([prompt], [token * POSITIONS])  # the last one is scored, but never read
    assert len(scored.log_probs_O) == POSITIONS
    with pytest.raises(TooLongError, match=r"has 1 tokens after merging and 32 more to read"):
        decoder.score([prompt], [token * (POSITIONS + 1)])


def test_a_limit_takes_the_place_of_the_model_s_positions(decoder):
    long = TEXTS[0] * 9
    assert decoder.read([long], limit=1000).n_tokens[0] > POSITIONS
    with pytest.raises(TooLongError, match="there is room for 3"):
        decoder.read(TEXTS, limit=3)
    with pytest.raises(InputError, match="limit must be 1 or more"):
        decoder.read(TEXTS, limit=0)


@pytest.mark.parametrize(
    ("prompts", "continuations", "options", "said"),
    [
        ([[5, 6]], ["x"], {"goal": Share(100)}, "given as ids are read as they are"),
        ([[5, 6], "x"], ["x", "x"], {}, "mix ids with texts"),
        ([[5, 10**6]], ["x"], {}, "Prompt 0 has the id 1000000: ids are whole numbers from 0 to"),
        ([[5, -1]], ["x"], {}, "Prompt 0 has the id -1"),
        ([[5]], [[6, True]], {}, "A continuation has the id True"),
    ],
)
def test_ids_that_cannot_be_read_are_told(decoder, prompts, continuations, options, said):
    with pytest.raises(InputError, match=said):
        decoder.score(prompts, continuations, **options)


def test_a_text_without_a_prompt_begins_with_bos_else_eos_else_nothing(decoder, tmp_path):
    index = decoder.tokenizer.own.token_to_id
    assert decoder.begin_id == index("<s>")
    path = tmp_path / "tokenizer_config.json"
    assert begin_id(tmp_path, decoder.tokenizer) is None
    path.write_text('{"bos_token": null, "eos_token": {"content": "</s>"}}')
    assert begin_id(tmp_path, decoder.tokenizer) == index("</s>")
