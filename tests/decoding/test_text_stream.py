"""Text as tokens come: whole characters, no stop string, and the same in the end however the tokens were handed in."""

import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dyntok_jax.decoding.text_stream import TextStream
from dyntok_jax.text import BYTE_CHARACTERS, ByteLevelTokenizer

END = 256


@pytest.fixture(scope="module")
def tokenizer():
    own = Tokenizer(models.BPE({character: byte for byte, character in enumerate(BYTE_CHARACTERS)}, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens(["<end>"])
    return ByteLevelTokenizer.convert(own)


def streamed(tokenizer, ids, **options):
    stream = TextStream(tokenizer, end_ids=[END], **options)
    return [stream.push([index]) for index in ids] + [stream.close()], stream


@given(st.text())
def test_pieces_are_whole_characters_and_join_to_the_text(tokenizer, text):
    pieces, stream = streamed(tokenizer, text.encode())
    assert "".join(pieces) == stream.text == text
    assert stream.finish == "length"
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in pieces)


def test_half_a_character_at_the_end_shows_as_one_replacement(tokenizer):
    pieces, _ = streamed(tokenizer, "aé".encode()[:-1])
    assert pieces == ["a", "", "\ufffd"]


def test_the_ending_token_ends_and_is_no_text(tokenizer):
    pieces, stream = streamed(tokenizer, [*b"ab", END, *b"c"])
    assert ("".join(pieces), stream.finish, stream.ids) == ("ab", "end", [*b"ab"])


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_no_stop_string_is_ever_shown(tokenizer, text, stop):
    pieces, stream = streamed(tokenizer, text.encode(), stop=stop)
    # the first stop string to be complete ends the text; of several complete at once, the one that begins first
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    expected = text if not ends else text[: min(text[: ends[0]].find(s) for s in stop if s in text[: ends[0]])]
    assert "".join(pieces) == stream.text == expected
    assert stream.finish == ("stop" if ends else "length")


def test_what_may_begin_a_stop_string_is_held_back(tokenizer):
    pieces, _ = streamed(tokenizer, b"x\n\nx\nUser", stop=["\n\nUser"])
    assert pieces == ["x", "", "", "\n\nx", "", "\nU", "s", "e", "r", ""]


def test_14_6_a_byte_token_is_its_byte_though_its_character_has_a_piece():
    pieces = ["<unk>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "K", "▁K", "<", "0", "x", "4", "B", ">"]
    own = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, [], byte_fallback=True))
    own.add_special_tokens(["<end>"])
    tokenizer = ByteLevelTokenizer.convert(own)
    first = pieces.index("<0x00>")
    for byte in range(256):
        stream = TextStream(tokenizer, end_ids=[1])
        expected = bytes([byte]).decode(errors="replace")
        assert stream.push([first + byte]) + stream.close() == expected == tokenizer.token_text([first + byte])
    stream = TextStream(tokenizer, end_ids=[1])
    assert stream.push([first + byte for byte in "Kä".encode()]) == "Kä"


def test_14_6_pieces_that_are_spelt_alike_are_both_text():
    own = Tokenizer(models.BPE({"a": 0, "Ġb": 1, " b": 2}, []))
    tokenizer = ByteLevelTokenizer.convert(own)
    assert tokenizer.token_text([2]) == " b"
    same = ByteLevelTokenizer.convert(Tokenizer(models.BPE({"▁a": 0, " a": 1, "a": 2}, [])))
    assert "<duplicate 1>" in same.pieces
    assert [same.token_text([index]) for index in range(3)] == [" a", " a", "a"]
