"""Texts to subwords: ids as the reference gives them, spans that give the text back, segments that obey boundaries."""

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError, TokenizerError
from dyntok_jax.text import (
    ByteLevelTokenizer,
    TextEncoder,
    to_bytes,
)
from dyntok_jax.text.byte_characters import (
    to_byte_level,
)
from dyntok_jax.types import NO_SEGMENT

GOLDEN = Path(__file__).parents[1] / "golden"
AWKWARD = [
    "",
    "x",
    " ",
    "  two  spaces ",
    "e\u0301 é",
    "🙂👩‍👩‍👧 🇨🇭",
    "ＦＵＬＬ　ｗｉｄｔｈ ½",
    "a\u200bb\x00c",
    "ꙮ𝔘",
    "new\nline\ttab",
]


def golden(name):
    with gzip.open(GOLDEN / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="session")
def xlmr_tokenizer(e5_small_folder):
    return ByteLevelTokenizer.load(e5_small_folder)


@pytest.fixture(scope="session")
def as_the_reference(e5_small_folder, mistral_tokenizer):
    """Both real tokenizers with the normaliser dropped, as in the golden traces."""
    return {
        "xlmr": ByteLevelTokenizer.load(e5_small_folder, keep_normalizer=False),
        "mistral": ByteLevelTokenizer.convert(mistral_tokenizer, keep_normalizer=False),
    }


def trained_tokenizer(kind: str) -> Tokenizer:
    """A small tokenizer of each remaining kind, trained on the sample."""
    texts = [text for texts in load_sample().values() for text in texts]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=2000,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


@pytest.fixture(scope="session", params=["unigram", "bpe_fallback", "bpe_bytes", "wordpiece"])
def any_tokenizer(request, xlmr_tokenizer, mistral_tokenizer):
    if request.param == "unigram":
        return xlmr_tokenizer
    if request.param == "bpe_fallback":
        return ByteLevelTokenizer.convert(mistral_tokenizer)
    return ByteLevelTokenizer.convert(trained_tokenizer(request.param), pad_token="[PAD]")


@pytest.fixture(scope="session")
def any_encoder(any_tokenizer):
    return TextEncoder(any_tokenizer)


@pytest.fixture(scope="session")
def xlmr_encoder(xlmr_tokenizer):
    return TextEncoder(xlmr_tokenizer)


@pytest.mark.parametrize(("name", "size"), [("xlmr", 250163), ("mistral", 32522)])
def test_vocabulary_is_the_one_that_hypernetworks_index(as_the_reference, name, size):
    tokenizer = as_the_reference[name]
    surface = golden(f"surface_{name}")
    assert tokenizer.vocab_size == surface["vocab_size"] == size
    vocabulary = tokenizer.byte_level.get_vocab()
    assert {piece: vocabulary[piece] for piece in surface["subword_ids"]} == surface["subword_ids"]


@pytest.mark.parametrize("name", ["xlmr", "mistral"])
def test_surface_forms_are_the_reference_s(as_the_reference, name):
    surface = golden(f"surface_{name}")
    found = as_the_reference[name].retokenize(list(surface["surface_ids"]))
    assert [ids[: surface["surface_maxlen"]] for ids in found] == list(surface["surface_ids"].values())


@pytest.mark.parametrize("name", ["xlmr", "mistral"])
def test_subwords_and_segments_are_the_reference_s(as_the_reference, name):
    tokenizer = as_the_reference[name]
    encoder = TextEncoder(tokenizer)
    for case in golden(f"merge_{name}"):
        subwords = encoder.encode(case["texts"], boundary=case["boundary"])
        has_specials = name == "xlmr"  # the Mistral file has no template: <s> and </s> are the trace's own
        for row, (expected, segments) in enumerate(zip(case["subwords"], case["segments"], strict=True)):
            ids = subwords.ids_N[subwords.offsets[row] : subwords.offsets[row + 1]]
            found = subwords.segment_N[subwords.offsets[row] : subwords.offsets[row + 1]]
            if has_specials:
                ids, found = ids[1:-1], found[1:-1]
            kept = len(expected) - 2
            assert [tokenizer.pieces[index] for index in ids[:kept]] == expected[1:-1]
            assert found[:kept].tolist() == segments[1:-1]


def test_subwords_spell_the_normalised_text(any_encoder):
    texts = [texts[0] for texts in load_sample().values()] + AWKWARD
    any_tokenizer = any_encoder.tokenizer
    subwords = any_encoder.encode(texts)
    normalizer = any_tokenizer.byte_level.normalizer
    for row, text in enumerate(texts):
        ids = subwords.ids_N[subwords.offsets[row] : subwords.offsets[row + 1]]
        spelt = any_tokenizer.token_string(index for index in ids if index not in any_tokenizer.special_ids)
        # the backend normalises the stretches between special tokens; these texts have none
        normal = normalizer.normalize_str(text) if normalizer else text
        if any_tokenizer.is_wordpiece:
            normal = "".join(normal.split())
        assert to_bytes(spelt).decode() == normal


def test_static_ids_are_the_model_s_own(any_encoder):
    texts = [text for texts in load_sample().values() for text in texts[:3]] + AWKWARD
    subwords = any_encoder.encode_static(texts)
    for row, text in enumerate(texts):
        found = subwords.ids_N[subwords.offsets[row] : subwords.offsets[row + 1]].tolist()
        assert found == any_encoder.tokenizer.own.encode(text).ids


def test_spans_tile_the_text(any_encoder):
    """Put end to end, the spans are the text but for what normalisation removes and for spaces no piece carries."""
    texts = [texts[1] for texts in load_sample().values()] + AWKWARD
    subwords = any_encoder.encode(texts)
    for row, text in enumerate(texts):
        covered = np.zeros(len(text), dtype=bool)
        previous = (0, 0)
        inner = slice(subwords.offsets[row], subwords.offsets[row + 1])
        for (start, end), segment in zip(subwords.span_N2[inner].tolist(), subwords.segment_N[inner], strict=True):
            if segment >= 0:
                assert previous[0] <= start <= end <= len(text)
                assert previous[1] <= end
                covered[start:end] = True
                previous = (start, end)
        uncovered = {character for character, is_covered in zip(text, covered, strict=True) if not is_covered}
        if any_encoder.tokenizer.is_wordpiece:  # BERT's normaliser drops accents
            uncovered = {c for c in uncovered if unicodedata.category(c) != "Mn"}
        if "WhitespaceSplit" in str(any_encoder.tokenizer.own.pre_tokenizer) or any_encoder.tokenizer.is_wordpiece:
            uncovered = {c for c in uncovered if not c.isspace()}
        assert uncovered <= set("\x00\u200b\u200d\ufe0f")


def test_composed_characters_belong_to_one_subword(xlmr_encoder):
    subwords = xlmr_encoder.encode(["ae\u0301", "e\u0301x"])
    assert subwords.span_N2[:, 1].max() == 3
    spans = subwords.span_N2[subwords.offsets[1] : subwords.offsets[2]].tolist()
    assert [0, 2] in spans or [0, 3] in spans


def test_the_added_space_touches_no_character(xlmr_tokenizer, xlmr_encoder):
    subwords = xlmr_encoder.encode(["世界"])
    space = xlmr_tokenizer.byte_level.token_to_id("Ġ")
    assert subwords.span_N2[subwords.ids_N == space].tolist() == [[0, 0]]


def test_prefix_is_neither_counted_nor_in_the_spans(any_encoder):
    text = "A plain text, nothing more."
    after_space = text if any_encoder.tokenizer.space != "none" else " " + text
    for encode in (any_encoder.encode, any_encoder.encode_static):
        with_prefix, alone = encode([text], prefix="query: "), encode([after_space])
        counted = with_prefix.is_counted_N
        assert alone.ids_N[alone.is_counted_N].tolist() == with_prefix.ids_N[counted].tolist()
        assert with_prefix.span_N2[counted][-1].tolist()[1] == len(text)
        assert with_prefix.span_N2[counted][0].tolist()[0] == 0


def test_a_prefix_merges_but_not_with_the_text(any_encoder):
    subwords = any_encoder.encode(["plain text"], prefix="query: ", boundary="sentence")
    prefix = (subwords.segment_N >= 0) & ~subwords.is_counted_N
    assert set(subwords.segment_N[prefix].tolist()) == {0}
    assert set(subwords.segment_N[subwords.is_counted_N].tolist()) == {1}


def test_pairs_number_segments_through(xlmr_tokenizer, xlmr_encoder):
    subwords = xlmr_encoder.encode([("A man sleeps.", "He is awake.")])
    segments = subwords.segment_N[subwords.segment_N >= 0]
    assert segments[0] == 0
    assert set(np.diff(segments)) <= {0, 1}
    own = xlmr_tokenizer.own.encode("A man sleeps.", "He is awake.")
    assert subwords.ids_N.tolist() == own.ids  # plain English: both forms agree
    assert (subwords.segment_N == -1).tolist() == [mask == 1 for mask in own.special_tokens_mask]


@pytest.mark.parametrize("boundary", ["pretoken", "word", "word_hyphen", "sentence"])
def test_words_own_their_subwords_and_never_share_a_segment(any_encoder, boundary):
    words = ["Angela", "Merkel's", "(CDU)", "世界", "visit-", "🙂", "x"]
    batch = [words, ["one"], []]
    for subwords in (any_encoder.encode(batch, boundary=boundary), any_encoder.encode_static(batch)):
        first = slice(0, subwords.offsets[1])
        counted = subwords.segment_N[first] >= 0
        owner = subwords.word_N[first][counted]
        assert sorted(set(owner.tolist())) == list(range(len(words)))
        assert (np.diff(owner) >= 0).all()
        owners_of = {}
        for segment, word in zip(subwords.segment_N[first][counted].tolist(), owner.tolist(), strict=True):
            owners_of.setdefault(segment, set()).add(word)
        assert all(len(owners) == 1 for owners in owners_of.values())


def segments_as_text(encoder, boundary, text):
    subwords = encoder.encode([text], boundary=boundary)
    strings = {}
    for index, segment in zip(subwords.ids_N.tolist(), subwords.segment_N.tolist(), strict=True):
        if segment >= 0:
            strings.setdefault(segment, []).append(index)
    return [encoder.tokenizer.token_text(ids).strip() for ids in strings.values()]


def test_boundaries_cut_where_they_say(any_encoder):
    text = "well-known e-mail, isn't it?"

    def cut(boundary):
        return segments_as_text(any_encoder, boundary, text)

    assert cut("pretoken") == ["well", "-", "known", "e", "-", "mail", ",", "isn", "'t", "it", "?"]
    assert cut("word") == ["well-known", "e-mail,", "isn't", "it?"]
    assert cut("word_hyphen") == ["well-known", "e-mail", ",", "isn", "'", "t", "it", "?"]
    assert len(cut("sentence")) == 1


@pytest.mark.parametrize(
    "text", [" hello", "  two  spaces ", "def f():\n        return 1", "a\t\t\tb ", "see <mask> here"]
)
def test_spaces_make_no_subwords_that_the_model_never_saw(xlmr_tokenizer, xlmr_encoder, text):
    """XLM-R drops runs of white space before it tokenizes, and so does its byte-level form."""
    pieces = [xlmr_tokenizer.pieces[index] for index in xlmr_encoder.encode([text]).ids_N]
    assert pieces.count("Ġ") == xlmr_tokenizer.own.encode(text).tokens.count("▁")


def test_prefixes_belong_to_no_word(any_encoder):
    for subwords in (
        any_encoder.encode([["Angela", "Merkel"]], prefix="query: "),
        any_encoder.encode_static([["Angela", "Merkel"]], prefix="query: "),
    ):
        assert (subwords.word_N[~subwords.is_counted_N] == -1).all()
        counted = subwords.word_N[subwords.is_counted_N]
        assert sorted(set(counted.tolist())) == [0, 1]


def test_added_words_are_words():
    own = trained_tokenizer("bpe_bytes")
    own.add_tokens(["covid", "naïve"])
    encoder = TextEncoder(ByteLevelTokenizer.convert(own, pad_token="[PAD]"))
    words = ["the", "covid", "naïve", "case"]
    for subwords in (encoder.encode([words], boundary="sentence"), encoder.encode_static([words])):
        counted = subwords.segment_N >= 0
        assert sorted(set(subwords.word_N[counted].tolist())) == [0, 1, 2, 3]
        covid = subwords.ids_N == own.token_to_id("covid")
        assert (subwords.segment_N == subwords.segment_N[covid][0]).sum() == 1  # never merges
    assert encoder.tokenizer.token_text([own.token_to_id("naïve")]) == "naïve"


def test_merges_that_build_an_added_token_still_work():
    pieces = ["▁", "a", "b", "▁a", "▁ab", "é", "éb", "Ã", "©"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁a", "b"), ("é", "b")]
    own = Tokenizer(models.BPE(vocabulary, merges))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.add_tokens([AddedToken("▁a", normalized=False), AddedToken("éb", single_word=True)])
    encoder = TextEncoder(ByteLevelTokenizer.convert(own))
    for reader in (encoder, encoder.twin):
        ids = reader.encode([" ab a", "ébb éb"]).ids_N.tolist()
        assert ids == [*own.encode(" ab a").ids, *own.encode("ébb éb").ids]
    assert encoder.tokenizer.retokenize(["Ġa", "Ã©b"]) == [[3], [6]]
    assert {ByteLevelTokenizer.convert(own).fingerprint for _ in range(4)} == {encoder.tokenizer.fingerprint}


def test_normalized_special_tokens_are_still_seen():
    own = tiny_tokenizer_with_normalized_mask()
    found = TextEncoder(ByteLevelTokenizer.convert(own)).encode(["(<mask>)"])
    assert own.token_to_id("<mask>") in found.ids_N


def tiny_tokenizer_with_normalized_mask() -> Tokenizer:
    own = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("(", -2.0), (")", -2.0)], unk_id=0))
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.add_special_tokens([AddedToken("<mask>", normalized=True)])
    return own


SPACE_RULES = {
    "always": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "unless_there": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
    "first": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "none": (normalizers.Replace(" ", "▁"), None),
}


@pytest.mark.parametrize("rule", SPACE_RULES)
@pytest.mark.parametrize("text", ["a", " a", "a b", "<s>a", "<s> a b<s>b", "a<s>a", "a<s> b", "", "<s>"])
def test_spaces_stand_where_the_model_s_own_tokenizer_puts_them(rule, text):
    own = Tokenizer(models.BPE({"a": 0, "b": 1, "▁": 2, "▁a": 3, "▁b": 4}, [("▁", "a"), ("▁", "b")]))
    own.normalizer, split = SPACE_RULES[rule]
    if split is not None:
        own.pre_tokenizer = split
    own.add_special_tokens(["<s>"])
    encoder = TextEncoder(ByteLevelTokenizer.convert(own))
    assert encoder.tokenizer.space == rule
    subwords = encoder.encode([text])
    assert subwords.ids_N.tolist() == own.encode(text).ids
    assert (subwords.segment_N == NO_SEGMENT).tolist() == (subwords.ids_N == 5).tolist()
    starts, ends = subwords.span_N2.T
    assert all(ends[:-1] == starts[1:])
    assert text == "" or (starts[0], ends[-1]) == (0, len(text))


def test_special_tokens_in_a_text_never_merge(xlmr_tokenizer, xlmr_encoder):
    subwords = xlmr_encoder.encode(["Paris is the <mask> of France."], boundary="sentence")
    mask = xlmr_tokenizer.own.token_to_id("<mask>")
    assert subwords.segment_N[subwords.ids_N == mask].tolist() == [-1]
    assert sorted(set(subwords.segment_N.tolist())) == [-1, 0, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_text_is_encoded(xlmr_encoder, texts):
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        with pytest.raises(InputError, match="lone surrogate"):
            xlmr_encoder.encode(texts)
        return
    subwords = xlmr_encoder.encode(texts)
    assert len(subwords) == len(texts)
    assert (subwords.span_N2[:, 0] <= subwords.span_N2[:, 1]).all()


def test_a_megabyte_in_one_line_is_encoded(any_encoder):
    text = "a" * 500_000 + " word" * 100_000
    assert len(any_encoder.encode([text]).ids_N) > 100_000


def test_bad_texts_are_named(xlmr_encoder):
    with pytest.raises(InputError, match=r"Text 1 has a lone surrogate \(U\+D800\) at character 2"):
        xlmr_encoder.encode(["fine", "ab\ud800"])
    with pytest.raises(InputError, match="different kinds"):
        xlmr_encoder.encode(["one", ("a", "b")])
    with pytest.raises(InputError, match="put it in a list"):
        xlmr_encoder.encode("hello")
    with pytest.raises(InputError, match="tuple of two"):
        xlmr_encoder.encode([("a", "b", "c")])


def test_tokenizers_without_a_byte_level_form_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match="WordLevel tokenizer has no byte-level form"):
        ByteLevelTokenizer.convert(Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        ByteLevelTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1')
    with pytest.raises(TokenizerError, match="is not readable JSON"):
        ByteLevelTokenizer.load(tmp_path)


@given(st.text().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_byte_characters_go_both_ways(text):
    assert to_bytes(to_byte_level(text)).decode() == text


def test_classes_leave_special_tokens_alone(xlmr_tokenizer, xlmr_encoder):
    classes = xlmr_encoder.classes
    mask = xlmr_tokenizer.own.token_to_id("<mask>")
    assert not classes.starts_with_punctuation_V[mask]
    assert classes.starts_with_space_V[xlmr_tokenizer.byte_level.token_to_id("Ġthe")]


@pytest.mark.parametrize("text", ["cafe\u0301", "cafe\u0301 e\u0301a", "e\u0301", "a\u0323\u0302", "x\u200by"])
@pytest.mark.parametrize("prefix", ["", "query: "])
def test_14_18_static_spans_cover_combining_marks(text_encoder, text, prefix):
    dynamic, static = (make([text], prefix=prefix) for make in (text_encoder.encode, text_encoder.encode_static))
    for subwords in (dynamic, static):
        spans = subwords.span_N2[subwords.is_counted_N]
        assert spans[:, 1].max() == len(text)
        covered = "".join(text[a:b] for a, b in dict.fromkeys(map(tuple, spans.tolist())))
        assert covered.replace(" ", "") == text.replace(" ", "")
