"""Grown vocabularies: the longest entry wins, the model's own stay as they are, what is saved comes back whole."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from dyntok_jax.assets import load_sample
from dyntok_jax.errors import CheckpointError, InputError, TokenizerError
from dyntok_jax.kernels import NONE
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder, piece_texts
from dyntok_jax.vocabulary import (
    GrownVocabulary,
    count_segments,
    grow_entries,
    load_vocabulary,
    read_vocabulary_config,
    save_vocabulary,
    vocabulary_folder,
)
from dyntok_jax.vocabulary.byte_pairs import GrownEntries
from tests.support.tiny import tiny_decoder_tokenizer, tiny_tokenizer

TEXTS = [text for code in ("en", "de", "el") for text in load_sample()[code][:4]]
TOKENIZERS = {
    "bpe": ByteLevelTokenizer.convert(tiny_decoder_tokenizer()),
    "unigram": ByteLevelTokenizer.convert(tiny_tokenizer(), pad_token="<pad>"),
}
BPE = TOKENIZERS["bpe"]
BOUNDARIES = ("pretoken", "word", "word_hyphen", "sentence")
AWKWARD = ["", " ", "x", "  a\t\tb \n \nc  (foo-bar)\u00a0x ", "🙂👩‍👩‍👧", "e\u0301 ½ ꙮ", "a</s> b<s>", "<s>"]


def grown(tokenizer, boundary, texts=TEXTS, n_entries=200):
    counts = count_segments(texts, TextEncoder(tokenizer), boundary=boundary)
    return GrownVocabulary.from_entries(tokenizer, grow_entries(counts, tokenizer, n_entries, max_subwords=5), boundary)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture(scope="module")
def vocabularies(tokenizer):
    return {boundary: grown(tokenizer, boundary) for boundary in BOUNDARIES}


@pytest.fixture(scope="module")
def vocabulary():
    return grown(BPE, "pretoken")


@pytest.fixture
def folder(vocabulary, tmp_path):
    save_vocabulary(tmp_path / "vocabulary", vocabulary, model="tiny")
    return tmp_path / "vocabulary"


def rows_of(encoded, values):
    return [values[a:b].tolist() for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]


def longest_in_python(vocabulary, texts):
    """Entries by `str.startswith`, segment by segment."""
    own = piece_texts(vocabulary.tokenizer)
    id_of = {text: index for index, text in enumerate(own) if text is not None}
    for row, parts in enumerate(vocabulary.constituents_ES.tolist(), start=len(own)):
        id_of[b"".join(own[part] for part in parts if part != NONE)] = row
    subwords = TextEncoder(vocabulary.tokenizer).encode(texts, boundary=vocabulary.boundary)
    found = []
    for ids, segments in zip(rows_of(subwords, subwords.ids_N), rows_of(subwords, subwords.segment_N), strict=True):
        tokens, at = [], 0
        while at < len(ids):
            end = at + 1
            if own[ids[at]] is None:
                tokens.append(ids[at])
                at = end
                continue
            while end < len(ids) and segments[end] == segments[at]:
                end += 1
            text = b"".join(own[index] for index in ids[at:end])
            while text:
                length = next(n for n in range(len(text), 0, -1) if text[:n] in id_of)
                tokens.append(id_of[text[:length]])
                text = text[length:]
            at = end
        found.append(tokens)
    return found


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_tokens_are_the_longest_entries(vocabularies, boundary):
    texts = TEXTS + AWKWARD
    encoded = vocabularies[boundary].encode(texts)
    assert rows_of(encoded, encoded.ids_N) == longest_in_python(vocabularies[boundary], texts)
    assert any(index >= vocabularies[boundary].n_own for index in encoded.ids_N)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_tokens_give_the_text_back(vocabularies, tokenizer, boundary):
    for text in TEXTS + AWKWARD * (tokenizer is BPE):
        ids = vocabularies[boundary].encode([text], add_special_tokens=False).ids_N.tolist()
        assert vocabularies[boundary].decode(ids, skip_special_tokens=False) == text


def test_spans_hold_the_text_of_their_tokens(vocabularies):
    for vocabulary in vocabularies.values():
        encoded = vocabulary.encode(TEXTS)
        spans = rows_of(encoded, encoded.span_N2)
        for text, ids, row in zip(TEXTS, rows_of(encoded, encoded.ids_N), spans, strict=True):
            for index, (start, end) in zip(ids, row, strict=True):
                found = vocabulary.token_bytes(index).decode(errors="replace")
                if "\ufffd" not in found:
                    assert text[start:end].strip() == found.strip()


def test_a_token_that_cuts_a_character_spans_all_of_it():
    alpha, first, second = (BPE.pieces.index(piece) for piece in ("Î±", "Î", "±"))
    b = BPE.pieces.index("b")
    vocabulary = GrownVocabulary(BPE, np.array([[b, first]], np.int32), "sentence")
    encoded = vocabulary.encode(["xbαα"])
    assert encoded.ids_N.tolist()[1:] == [vocabulary.n_own, second, alpha]
    assert encoded.span_N2.tolist()[1:] == [[1, 3], [2, 3], [3, 4]]


def test_fields_of_a_token_are_those_of_its_segment(vocabulary):
    pairs = [(TEXTS[0], TEXTS[1]), ("", "x")]
    encoded, subwords = (make.encode(pairs, prefix="query: ") for make in (vocabulary, TextEncoder(BPE)))
    for row in range(2):
        ours, theirs = (slice(*found.offsets[row : row + 2]) for found in (encoded, subwords))
        for name in ("segment_N", "type_N", "text_N", "word_N", "is_counted_N"):
            assert set(getattr(encoded, name)[ours].tolist()) == set(getattr(subwords, name)[theirs].tolist())
    words = vocabulary.encode([["unbelievable", "rights"]])
    assert sorted(set(words.word_N.tolist())) == [0, 1]


def test_without_new_entries_bytes_and_ids_are_the_models():
    vocabulary = GrownVocabulary(BPE, np.zeros((0, 1), np.int32), "pretoken")
    assert vocabulary.size == len(vocabulary) == BPE.vocab_size
    assert vocabulary.decode(vocabulary.encode(TEXTS[:1]).ids_N.tolist()) == TEXTS[0]


def test_surface_forms_are_own_ids_and_constituents(vocabulary):
    forms_US, is_subword_US = vocabulary.surface_forms(vocabulary.n_own - 2, vocabulary.n_own + 3)
    assert forms_US[:2, 0].tolist() == [vocabulary.n_own - 2, vocabulary.n_own - 1]
    assert is_subword_US[:2].sum(axis=1).tolist() == [1, 1]
    for row in range(3):
        assert BPE.token_string(forms_US[2 + row][is_subword_US[2 + row]].tolist()) == vocabulary.string(
            vocabulary.n_own + row
        )
    assert vocabulary.surface_forms(0, vocabulary.size)[0].shape == (vocabulary.size, 5)
    assert vocabulary.surface_forms(vocabulary.size, vocabulary.size)[0].shape == (0, 5)


def test_special_tokens_are_left_out_of_texts_unless_asked_for(vocabulary):
    ids = vocabulary.encode(["a</s>"]).ids_N.tolist()
    assert vocabulary.decode(ids) == "a"
    assert vocabulary.decode(ids, skip_special_tokens=False) == "a</s>"
    assert vocabulary.decode([BPE.pieces.index("Î")]) == "\ufffd"
    with pytest.raises(InputError, match="There is no entry"):
        vocabulary.decode([vocabulary.size])


letters = st.text(st.sampled_from("ab éα \t\n.,-'🙂\u00a0１") | st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=100, deadline=None)
@given(letters)
def test_the_saved_tokenizer_gives_the_same_ids(vocabularies_as_files, text):
    for vocabulary, file in vocabularies_as_files:
        assert file.encode(text).ids == vocabulary.encode([text]).ids_N.tolist()


@pytest.fixture(scope="module")
def vocabularies_as_files():
    found = [grown(BPE, boundary) for boundary in ("pretoken", "word", "sentence")]
    return [(one, Tokenizer.from_str(json.dumps(vocabulary_folder.tokenizer_spec(one)))) for one in found]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_what_is_saved_comes_back(vocabularies, tokenizer, boundary, tmp_path):
    vocabulary = vocabularies[boundary]
    save_vocabulary(tmp_path / "v", vocabulary, model="tiny")
    loaded = load_vocabulary(tmp_path / "v", tokenizer)
    assert loaded.fingerprint == vocabulary.fingerprint
    assert loaded.boundary == boundary
    assert loaded.new_strings == vocabulary.new_strings
    assert read_vocabulary_config(tmp_path / "v")["model"] == "tiny"
    file = Tokenizer.from_file(str(tmp_path / "v" / "tokenizer.json"))
    assert file.get_vocab_size() == vocabulary.size
    for text in TEXTS:  # the library's own reading, on real text of every boundary
        encoding = file.encode(text)
        ours = vocabulary.encode([text])
        assert encoding.ids == ours.ids_N.tolist()
        assert file.decode(encoding.ids).strip() == text


def test_fingerprints_tell_vocabularies_apart(vocabulary):
    rows = vocabulary.constituents_ES
    others = [
        GrownVocabulary(BPE, rows[:-1], "pretoken"),
        GrownVocabulary(BPE, rows[::-1].copy(), "pretoken"),
        GrownVocabulary(BPE, rows, "word"),
    ]
    assert len({vocabulary.fingerprint, *(other.fingerprint for other in others)}) == 4
    wider = GrownVocabulary(BPE, np.pad(rows, ((0, 0), (0, 2)), constant_values=NONE), "pretoken")
    assert wider.fingerprint == vocabulary.fingerprint


def entry(*pieces, width=3):
    ids = [BPE.pieces.index(piece) for piece in pieces]
    return ids + [NONE] * (width - len(ids))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([entry("x", "y"), entry("x", "y")], "'xy' is entry 600 already"),
        ([entry("x", "y", "x"), entry("x", "y", "x")], "duplicate"),
        ([entry("a", "n")], "duplicate: 'an' is entry"),
        ([entry("x")], "fewer than two subwords"),
        ([[NONE, *entry("x", "y")[:2]]], "padding before its end"),
        ([[BPE.vocab_size, 5, 6]], "does not consist of the model's 600 own subwords"),
        ([[-2, 5, 6]], "does not consist of the model's"),
        ([entry("<s>", "x")], "does not consist of the model's"),
    ],
)
def test_entries_that_cannot_be_are_refused(rows, said):
    with pytest.raises(InputError, match=said):
        GrownVocabulary(BPE, np.array(rows, np.int32), "pretoken")


def test_an_entry_that_reads_as_a_name_of_the_models_is_left_out():
    own = Tokenizer.from_str(tiny_decoder_tokenizer().to_str())
    own.add_tokens([AddedToken("xyz", single_word=True)])
    tokenizer = ByteLevelTokenizer.convert(own)
    rows = np.array([entry("x", "y"), entry("x", "y", "z")], np.int32)
    made = GrownVocabulary.from_entries(tokenizer, GrownEntries(rows, np.array([3, 2])), "pretoken")
    assert made.new_strings == ["xy"]


def test_wordpiece_cannot_be_grown():
    with pytest.raises(TokenizerError, match="carry no spaces"):
        GrownVocabulary(wordpiece(), np.zeros((0, 1), np.int32), "word")


def wordpiece():
    from tokenizers import models, pre_tokenizers

    own = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    return ByteLevelTokenizer.convert(own)


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def drop_special(spec):
    del spec["model"]["vocab"]["</s>"]


def drop_own(spec):
    del spec["model"]["vocab"]["an"]


def add_entry(spec):
    spec["model"]["vocab"]["zzzzz"] = len(spec["model"]["vocab"])


def swap_new(spec):
    vocab = spec["model"]["vocab"]
    last, before = list(vocab)[:-3:-1]
    vocab[last], vocab[before] = vocab[before], vocab[last]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_special, "lacks the special tokens </s>"),
        (drop_own, "does not have the model's own entry .* 'an'"),
        (add_entry, "has 'zzzzz', which is not in entries.safetensors"),
        (swap_new, "does not have entry 7"),
        (lambda spec: spec.pop("model"), "'model' is missing"),
    ],
)
def test_a_tokenizer_file_of_other_entries_is_refused(folder, change, said):
    edit(folder / "tokenizer.json", change)
    with pytest.raises(InputError, match=said):
        load_vocabulary(folder, BPE)


def test_a_duplicate_in_the_tokenizer_file_is_named(folder):
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"vocab": {', '"vocab": {"an": 5, ', 1), encoding="utf-8")
    with pytest.raises(InputError, match='has "an" twice'):
        load_vocabulary(folder, BPE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config.update(tokenizer="0"), "built for another tokenizer"),
        (lambda config: config.update(version=9), "has version 9"),
        (lambda config: config.update(model_type="llama"), "is not a grown vocabulary"),
        (lambda config: config.update(boundary="line"), "damaged .boundary."),
        (lambda config: config.pop("fingerprint"), "damaged .fingerprint."),
        (lambda config: config.update(boundary="word"), "not those it was built with"),
    ],
)
def test_a_config_of_something_else_is_refused(folder, change, said):
    edit(folder / "config.json", change)
    with pytest.raises(InputError, match=said):
        load_vocabulary(folder, BPE)


def test_damaged_files_are_named(folder, vocabulary):
    with pytest.raises(InputError, match="There is no"):
        load_vocabulary(folder / "nowhere", BPE)
    (folder / "entries.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"entries\.safetensors cannot be read"):
        load_vocabulary(folder, BPE)
    save_file({"constituents": vocabulary.constituents_ES[:-1].copy()}, folder / "entries.safetensors")
    with pytest.raises(InputError, match=r"which is not in entries\.safetensors"):
        load_vocabulary(folder, BPE)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not readable JSON"):
        load_vocabulary(folder, BPE)


def test_a_folder_appears_whole_or_not_at_all(vocabulary, folder, monkeypatch):
    with pytest.raises(CheckpointError, match="exists already"):
        save_vocabulary(folder, vocabulary)
    before = load_file(folder / "entries.safetensors")["constituents"]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(vocabulary_folder, "save_arrays", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        save_vocabulary(folder, vocabulary, overwrite=True)
    np.testing.assert_array_equal(load_file(folder / "entries.safetensors")["constituents"], before)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="disk full"):
        save_vocabulary(folder, vocabulary)
    assert not list(folder.parent.iterdir())
