"""Added tokens of white space, as Gemma 3 has them, are text: read as by the model's own tokenizer, and never lost."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from dyntok_jax.text import ByteLevelTokenizer, TextEncoder, to_bytes
from dyntok_jax.vocabulary import GrownVocabulary, load_vocabulary, save_vocabulary
from tests.support.tiny import tiny_decoder_tokenizer

LONGEST = 4
RUNS = {character: [character * n for n in range(1, LONGEST + 1)] for character in "▁\n\t"}
ADDED = [run for character, runs in RUNS.items() for run in runs if run != "▁"]
WORDS = ["a", "b", "ab", "▁a", "▁ab"]
PARTS = [" ", "  ", "     ", "\n", "\n\n", "\t", "\t\t\t\t\t", "a", "b", "ab", "é", "世"]
TEXTS = st.lists(st.sampled_from(PARTS)).map("".join)


def gemma_like(*, normalized: bool = False, special: bool = False) -> Tokenizer:
    """BPE with byte fallback; merges build runs of white space too, the longest first, as SentencePiece would."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *chain(*RUNS.values()), *WORDS]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    runs = [
        (character * left, character * right)
        for character in RUNS
        for left in range(1, LONGEST)
        for right in range(1, LONGEST + 1 - left)
    ]
    merges = sorted(runs, key=lambda pair: (-len(pair[0]), -len(pair[1])))
    merges += [("a", "b"), ("▁", "ab"), ("▁", "a"), ("▁a", "b")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    own = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    own.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    own.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    runs = [AddedToken(run, normalized=normalized, special=special) for run in ADDED]
    (own.add_special_tokens if special else own.add_tokens)(runs)
    return own


KINDS = {
    "plain": {},
    "normalized": {"normalized": True},
    "special": {"special": True},
}


@pytest.fixture(scope="module", params=KINDS)
def own(request):
    return gemma_like(**KINDS[request.param])


@pytest.fixture(scope="module")
def encoder(own):
    return TextEncoder(ByteLevelTokenizer.convert(own))


def spelt(encoder, ids):
    return b"".join(to_bytes(encoder.tokenizer.token_string([index])) for index in ids)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_static_ids_are_the_model_s_own(own, encoder, text):
    for reader in (encoder, encoder.twin):
        static = reader.encode_static([text])
        assert static.ids_N.tolist() == own.encode(text).ids
        assert static.counts.tolist() == [len(static.ids_N) - 1]


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_white_space_falls_as_in_the_model_s_own(own, encoder, text):
    for reader in (encoder, encoder.twin):
        assert reader.encode([text]).ids_N.tolist() == own.encode(text).ids


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("boundary", ["pretoken", "word", "sentence"])
def test_no_text_is_lost(encoder, text, boundary):
    subwords = encoder.encode([text], boundary=boundary, add_special_tokens=False)
    assert spelt(encoder, subwords.ids_N.tolist()) == text.encode()
    assert (subwords.segment_N >= 0).all()
    for index, (start, end) in zip(subwords.ids_N.tolist(), subwords.span_N2.tolist(), strict=True):
        part = spelt(encoder, [index])
        assert part == text[start:end].encode() or len(part) == 1  # of a character without a piece, a byte each
    ends = subwords.span_N2[:, 1]
    assert text == "" or (ends[-1] == len(text) and (np.diff(ends) >= 0).all())


def test_runs_of_white_space_merge_within_their_segment(encoder):
    text = "ab\n\n  \tab"
    for boundary, segments in {"pretoken": 5, "word": 2, "sentence": 1}.items():
        found = encoder.encode([text], boundary=boundary, add_special_tokens=False)
        assert found.span_N2.tolist() == [[0, 2], [2, 4], [4, 6], [6, 7], [7, 9]]
        assert found.segment_N.max() + 1 == segments


def test_each_is_an_entry_with_its_spelling(own, encoder):
    tokenizer = encoder.tokenizer
    for run in ADDED:
        index, string = own.token_to_id(run), run.replace("▁", "Ġ").replace("\n", "Ċ").replace("\t", "ĉ")
        assert tokenizer.pieces[index] == tokenizer.token_string([index]) == string
        assert tokenizer.retokenize([string]) == [[index]]
        assert index not in tokenizer.added_ids | tokenizer.special_ids
    assert len(set(tokenizer.pieces)) == tokenizer.vocab_size


def test_typed_special_tokens_are_still_text_to_the_twin(encoder):
    text = "a  <eos>\n\nb"
    twin, names = encoder.twin, encoder.special_names
    assert set(names.disguises) == {"<pad>", "<eos>", "<bos>", "<unk>"}
    for read in (twin.encode, twin.encode_static):
        subwords = read([text], add_special_tokens=False)
        assert not set(subwords.ids_N.tolist()) & encoder.tokenizer.special_ids
        assert {"ĊĊ", "ĠĠ"} <= {encoder.tokenizer.spellings[index] for index in subwords.ids_N.tolist()}
        assert read([names.swap(text)], add_special_tokens=False).ids_N.tolist().count(1) == 1


def test_a_tokenizer_is_converted_alike_each_time(own, encoder):
    assert {ByteLevelTokenizer.convert(own).fingerprint for _ in range(4)} == {encoder.tokenizer.fingerprint}


def ids_of(grown, text):
    return grown.encode([text], add_special_tokens=False).ids_N.tolist()


def test_a_grown_vocabulary_and_its_file_read_them(tmp_path, own, encoder):
    pair = encoder.tokenizer.retokenize(["ĊĊ", "ĠĠ"])
    grown = GrownVocabulary(encoder.tokenizer, np.array([list(chain(*pair))], np.int32), "word")
    text = "a\n\n  b\n\n\n\n\n"
    ids = ids_of(grown, text)
    assert grown.n_own in ids
    assert grown.decode(ids) == text
    for boundary in ("pretoken", "sentence"):
        grown = GrownVocabulary(encoder.tokenizer, np.array([list(chain(*pair))], np.int32), boundary)
        save_vocabulary(tmp_path / boundary, grown)
        loaded = load_vocabulary(tmp_path / boundary, ByteLevelTokenizer.convert(own))
        file = Tokenizer.from_file(str(tmp_path / boundary / "tokenizer.json"))
        assert file.encode(text, add_special_tokens=False).ids == ids_of(loaded, text)


@pytest.mark.parametrize("special", [False, True])
def test_byte_level_tokenizers_have_them_too(special):
    own = Tokenizer.from_str(tiny_decoder_tokenizer().to_str())
    own.add_tokens([AddedToken(" " * n, special=special) for n in range(2, 9)])
    encoder = TextEncoder(ByteLevelTokenizer.convert(own))
    text = "if a:\n" + " " * 8 + "return\n" + " " * 13 + "b  "
    subwords = encoder.encode([text])
    assert subwords.ids_N.tolist() == own.encode(text).ids == encoder.encode_static([text]).ids_N.tolist()
    assert spelt(encoder, subwords.ids_N.tolist()) == text.encode()
    assert (subwords.segment_N >= 0).all()


def test_runs_that_the_model_reads_otherwise_are_not_cut_out():
    """Here a space joins the word after it before it joins another space."""
    vocabulary = {piece: index for index, piece in enumerate(["▁", "a", "▁a", "▁▁"])}
    own = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", "▁")]))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.add_tokens([AddedToken("▁▁", normalized=False)])
    encoder = TextEncoder(ByteLevelTokenizer.convert(own))
    for text in ("a  a", "a  ", "a   a"):
        assert encoder.encode([text]).ids_N.tolist() == encoder.encode_static([text]).ids_N.tolist()


def test_a_space_before_each_part_touches_no_character():
    vocabulary = {piece: index for index, piece in enumerate(["▁", "a", "\n", "\n\n"])}
    own = Tokenizer(models.BPE(vocabulary, [("\n", "\n")]))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.add_tokens([AddedToken("\n\n", normalized=False)])
    subwords = TextEncoder(ByteLevelTokenizer.convert(own)).encode(["a\n\na"])
    assert subwords.ids_N.tolist() == own.encode("a\n\na").ids == [0, 1, 3, 0, 1]
    assert subwords.span_N2.tolist() == [[0, 0], [0, 1], [1, 3], [3, 3], [3, 4]]
