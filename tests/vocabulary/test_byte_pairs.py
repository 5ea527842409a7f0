"""Segments counted and vocabularies grown on them, against plain Python, byte for byte."""

import threading
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError, TokenizerError
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder, piece_texts
from dyntok_jax.vocabulary import WordList, byte_pairs as grow, count_segments, grow_entries, word_texts
from dyntok_jax.vocabulary.segment_counts import SegmentCounts
from tests.support.tiny import tiny_decoder_tokenizer, tiny_tokenizer

TEXTS = [text for code in ("en", "de", "el", "th") for text in load_sample()[code][:4]]
BPE = ByteLevelTokenizer.convert(tiny_decoder_tokenizer())
UNIGRAM = ByteLevelTokenizer.convert(tiny_tokenizer())
OLD = piece_texts(BPE)
UNITS = [tuple(map(BPE.pieces.index, unit)) for unit in ("a", "b", ["an"], "Î±", ["Î±"], "Î½", ["<s>"])]
"""Ways to write whole characters: α in two ways, ν by its bytes; <s> stands for no text."""


def counts_of(segments):
    return SegmentCounts(
        ids_N=np.array([index for segment in segments for index in segment], np.int32),
        offset=np.cumsum([0, *map(len, segments)], dtype=np.int64),
        count_K=np.array(list(segments.values()), np.int64),
        boundary="pretoken",
        pruned=0,
    )


def grown_in_python(segments, texts, wanted, longest, min_count):
    """The same as `grow_entries`, every pair counted anew after each merge."""
    kind_of = {text: index for index, text in reversed(list(enumerate(texts))) if text is not None}
    strings, entries = list(texts), []
    rows = [([(index, 1, (index,)) for index in segment], count) for segment, count in segments.items()]

    def fits(left, right):
        return strings[left[0]] and strings[right[0]] and left[1] + right[1] <= longest

    while len(entries) < wanted:
        count_of = Counter()
        for tokens, count in rows:
            for left, right in pairwise(tokens):
                if fits(left, right):
                    count_of[left[0], right[0]] += count
        if not count_of:
            break
        pair, count = min(count_of.items(), key=lambda item: (-item[1], item[0]))
        if count < min_count:
            break
        string = strings[pair[0]] + strings[pair[1]]
        is_new = string not in kind_of
        if is_new:
            kind_of[string] = len(strings)
            strings.append(string)
        first = None
        for tokens, _ in rows:
            at = 0
            while at < len(tokens) - 1:
                left, right = tokens[at : at + 2]
                if (left[0], right[0]) == pair and fits(left, right):
                    tokens[at : at + 2] = [(kind_of[string], left[1] + right[1], left[2] + right[2])]
                    first = first or tokens[at][2]
                at += 1
        if is_new and is_whole(string):
            entries.append((first, count))
    return entries


def is_whole(string):
    try:
        string.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_pairs(grown):
    rows = (tuple(index for index in row if index >= 0) for row in grown.constituents_ES.tolist())
    return list(zip(rows, grown.count_E.tolist(), strict=True))


segment_sets = st.dictionaries(
    st.lists(st.sampled_from(UNITS), min_size=2, max_size=7).map(lambda units: sum(units, ())),
    st.integers(1, 4),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(segment_sets, st.integers(0, 12), st.integers(2, 9), st.integers(1, 3))
def test_growing_is_counting_every_pair_anew(segments, wanted, longest, min_count):
    grown = grow_entries(counts_of(segments), BPE, wanted, max_subwords=longest, min_count=min_count)
    assert as_pairs(grown) == grown_in_python(segments, OLD, wanted, longest, min_count)


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM], ids=["bpe", "unigram"])
@pytest.mark.parametrize("boundary", ["pretoken", "word", "sentence"])
def test_entries_of_text_are_new_whole_and_short(tokenizer, boundary):
    counts = count_segments(TEXTS, TextEncoder(tokenizer), boundary=boundary)
    grown = grow_entries(counts, tokenizer, 300, max_subwords=4)
    texts = piece_texts(tokenizer)
    strings = [b"".join(texts[index] for index in row) for row, _ in as_pairs(grown)]
    assert len(set(strings) | set(texts)) == len(strings) + len(set(texts))
    assert all(is_whole(string) for string in strings)
    assert {len(row) for row, _ in as_pairs(grown)} <= {2, 3, 4}
    assert grown.count_E.min() >= 2
    assert any(b" " in string.strip() for string in strings) == (boundary == "sentence")
    fewer = grow_entries(count_segments(iter(TEXTS), TextEncoder(tokenizer), boundary=boundary), tokenizer, 50)
    assert as_pairs(fewer)[:20] == as_pairs(grow_entries(counts, tokenizer, 20))


def test_the_first_entry_is_what_comes_most():
    grown = grow_entries(counts_of({tuple(map(BPE.pieces.index, "xyx")): 5}), BPE, 10)
    assert [BPE.token_text(row) for row, _ in as_pairs(grown)] == ["xy", "xyx"]
    assert grown.count_E.tolist() == [5, 5]


def test_no_pair_often_enough_gives_no_entry():
    grown = grow_entries(counts_of({tuple(map(BPE.pieces.index, "xy")): 1}), BPE, 10, max_subwords=7)
    assert grown.constituents_ES.shape == (0, 7)


def test_progress_adds_up_and_ctrl_c_ends_the_loop(monkeypatch):
    counts = counts_of({tuple(map(BPE.pieces.index, "xyz")): 5})
    told = []
    grow_entries(counts, BPE, 10, progress=told.append)
    assert sum(told) == 2

    stopped = threading.Event()

    def endless(*arrays):
        state = arrays[-1]
        while state[grow.STOP] == 0:
            pass
        stopped.set()

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(grow, "grow", endless)
    with pytest.raises(KeyboardInterrupt):
        grow_entries(counts, BPE, 10, progress=interrupt)
    assert stopped.is_set()


def test_an_error_within_the_loop_comes_out(monkeypatch):
    monkeypatch.setattr(grow, "grow", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grow_entries(counts_of({(5, 6): 5}), BPE, 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_entries": -1}, "n_entries must be 0 or more"),
        ({"n_entries": 1, "max_subwords": 1}, "max_subwords must be 2 or more"),
        ({"n_entries": 1, "min_count": 0}, "min_count must be 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        grow_entries(counts_of({(5, 6): 1}), BPE, **options)


def test_wordpiece_is_refused():
    own = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(TokenizerError, match="carry no spaces"):
        grow_entries(counts_of({(1, 2): 1}), ByteLevelTokenizer.convert(own), 5)


def segments_in_python(texts, tokenizer, boundary):
    counted = Counter()
    for text, weight in texts:
        subwords = TextEncoder(tokenizer).encode([text], boundary=boundary, add_special_tokens=False)
        for number in np.unique(subwords.segment_N[subwords.segment_N >= 0]):
            segment = tuple(subwords.ids_N[subwords.segment_N == number].tolist())
            if len(segment) > 1:
                counted[segment] += weight
    return counted


def as_counter(counts):
    parts = np.split(counts.ids_N, counts.offset[1:-1])
    return {tuple(part.tolist()): count for part, count in zip(parts, counts.count_K.tolist(), strict=True)}


@pytest.mark.parametrize("boundary", ["pretoken", "sentence"])
def test_counts_are_those_of_every_segment(boundary, monkeypatch):
    monkeypatch.setattr("dyntok_jax.vocabulary.segment_counts.BATCH_CHARACTERS", 300)
    texts = [(text, 1 + row % 3) for row, text in enumerate(TEXTS + TEXTS[:5])] + [("", 1), ("a</s>unheard", 2)]
    counts = count_segments(texts, TextEncoder(BPE), boundary=boundary)
    assert as_counter(counts) == segments_in_python(texts, BPE, boundary)
    assert (np.diff(counts.count_K) <= 0).all()
    assert counts.pruned == 0


def test_rare_segments_go_where_room_is_short(monkeypatch):
    monkeypatch.setattr("dyntok_jax.vocabulary.segment_counts.BATCH_CHARACTERS", 200)
    texts = [*TEXTS, *["unheard-of"] * 50]
    counts = count_segments(texts, TextEncoder(BPE), capacity=400)
    everything = segments_in_python([(text, 1) for text in texts], BPE, "pretoken")
    found = as_counter(counts)
    assert counts.pruned > 0
    assert len(counts.ids_N) <= 400
    assert all(everything[segment] - counts.pruned <= count <= everything[segment] for segment, count in found.items())


def test_what_cannot_be_counted_is_told(monkeypatch):
    with pytest.raises(InputError, match="nothing to merge"):
        count_segments(["a", ""], TextEncoder(BPE))
    monkeypatch.setattr("dyntok_jax.vocabulary.segment_counts.BATCH_CHARACTERS", 200)
    with pytest.raises(InputError, match="none can be preferred"):
        count_segments(TEXTS, TextEncoder(BPE), boundary="sentence", capacity=50)


def test_progress_of_counting_is_in_bytes():
    told = []
    count_segments(TEXTS, TextEncoder(BPE), progress=told.append)
    assert sum(told) == sum(len(text.encode()) for text in TEXTS)


def test_words_come_with_a_space_and_whole_weights():
    words = WordList(("und", "中国", "oder"), np.array([3.0, 2.0, 1.0]))
    assert list(word_texts(words, BPE)) == [(" und", 3), ("中国", 2), (" oder", 1)]
    fractions = WordList(("und", "oder"), np.array([0.25, 0.1]))
    assert list(word_texts(fractions, UNIGRAM)) == [("und", 2), ("oder", 1)]
