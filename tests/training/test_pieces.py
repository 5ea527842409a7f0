"""Vocabulary pieces written as shorter ones, in the input pipeline."""

import copy
import json
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError
from dyntok_jax.text import FILLER_SCORE, ByteLevelTokenizer
from dyntok_jax.training.data import DataConfig, training_batches
from dyntok_jax.training.data.pieces import VocabularyPieces, make_piece_batch, vocabulary_pieces
from tests.support.tiny import tiny_tokenizer
from tests.training.test_training_data import assert_same

S = 5
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]


def unigram() -> ByteLevelTokenizer:
    return ByteLevelTokenizer.convert(tiny_tokenizer(), pad_token="<pad>")


def bpe() -> ByteLevelTokenizer:
    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        load_sample()["en"] + load_sample()["ru"],
        trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return ByteLevelTokenizer.convert(own, pad_token="<pad>")


def sentencepiece_bpe() -> ByteLevelTokenizer:
    """BPE over characters with a piece for each byte, as in Mistral: its characters of several bytes must be built."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(
        load_sample()["en"] + load_sample()["ru"], trainers.BpeTrainer(vocab_size=700, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    own = Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)},
            [tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return ByteLevelTokenizer.convert(own)


def wordpiece() -> ByteLevelTokenizer:
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer, own.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    own.train_from_iterator(
        load_sample()["en"] + load_sample()["ru"],
        trainers.WordPieceTrainer(vocab_size=900, special_tokens=SPECIAL, show_progress=False),
    )
    return ByteLevelTokenizer.convert(own, pad_token="<pad>")


MAKERS = {"unigram": unigram, "bpe": bpe, "sentencepiece_bpe": sentencepiece_bpe, "wordpiece": wordpiece}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request) -> ByteLevelTokenizer:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def pieces(tokenizer) -> VocabularyPieces:
    return vocabulary_pieces(tokenizer, max_subwords=S, mode="decompose")


def parts_of(row: np.ndarray) -> list[int]:
    return row[row >= 0].tolist()


def forbidding(tokenizer: ByteLevelTokenizer, piece: str) -> models.Model:
    """The tokenizer's model without a piece, built by the library that runs it."""
    spec = json.loads(tokenizer.byte_level.to_str())
    model = copy.deepcopy(spec["model"])
    match model["type"]:
        case "Unigram":
            model["vocab"] = [[text, 10 * FILLER_SCORE if text == piece else score] for text, score in model["vocab"]]
        case "BPE":
            model["merges"] = [merge for merge in model["merges"] if "".join(merge) != piece]
        case "WordPiece":
            model["vocab"] = {
                f"<no {index}>" if text == piece else text: index for text, index in model["vocab"].items()
            }
    return Tokenizer.from_str(json.dumps(spec | {"model": model})).model


@pytest.mark.slow
def test_a_piece_is_written_as_the_tokenizer_would_without_it(tokenizer, pieces):
    own = vocabulary_pieces(tokenizer, max_subwords=S, mode="identity").spellings.id_M.tolist()
    row_of = {target: row for row, target in enumerate(pieces.spellings.id_M.tolist())}
    # the library starts words only, so WordPiece's continuations cannot be asked for
    asked = [target for target in own if not tokenizer.pieces[target].startswith("##")][::12]
    assert len(row_of.keys() & asked) > 20
    for target in asked:
        piece = tokenizer.pieces[target]
        expected = [part.id for part in forbidding(tokenizer, piece).tokenize(piece)]
        has_way = 2 <= len(expected) <= S and set(expected) <= set(own)
        assert (target in row_of) == has_way
        if has_way:
            assert parts_of(pieces.part_MS[row_of[target]]) == expected


@pytest.mark.parametrize("random_probability", [0.0, 1.0])
def test_parts_spell_the_piece_and_are_shorter(tokenizer, pieces, random_probability):
    rng = np.random.default_rng(0)
    rows = np.arange(len(pieces))
    batch = make_piece_batch(
        pieces, rows, np.zeros(len(rows), np.int32), random_probability=random_probability, rng=rng
    )
    for target, surface, is_subword in zip(
        batch.target_P.tolist(), batch.forms.surface_PS, batch.forms.is_subword_PS, strict=True
    ):
        parts = surface[is_subword].tolist()
        assert 2 <= len(parts) <= S
        assert target not in parts
        assert tokenizer.token_string(parts) == tokenizer.token_string([target])
        assert not set(parts) & tokenizer.added_ids
        assert max(parts) < tokenizer.n_own
        if tokenizer.is_wordpiece:
            begins = [not tokenizer.pieces[part].startswith("##") for part in parts]
            assert begins == [not tokenizer.pieces[target].startswith("##")] + [False] * (len(parts) - 1)


def test_every_random_way_is_taken():
    vocabulary = [("<unk>", 0.0), *((piece, -1.0) for piece in ["a", "b", "ab", "ba", "aba", "abab"])]
    own = Tokenizer(models.Unigram([*map(tuple, vocabulary)], unk_id=0))
    pieces = vocabulary_pieces(ByteLevelTokenizer.convert(own), max_subwords=4, mode="decompose")
    row = pieces.spellings.id_M.tolist().index(6)
    batch = make_piece_batch(
        pieces,
        np.full(3000, row),
        np.zeros(3000, np.int32),
        random_probability=1.0,
        rng=np.random.default_rng(0),
    )
    ways = Counter(
        " ".join(vocabulary[part][0] for part in surface[is_subword])
        for surface, is_subword in zip(batch.forms.surface_PS, batch.forms.is_subword_PS, strict=True)
    )
    # two, three or four parts are equally likely, and so are the ways in so many
    expected = {"ab ab": 500, "aba b": 500, "a b ab": 333, "ab a b": 333, "a ba b": 333, "a b a b": 1000}
    assert ways == pytest.approx(expected, rel=0.15)


def test_identities_are_the_pieces_themselves(tokenizer):
    stream = training_batches(DataConfig({}, pieces_per_batch=32, pieces="identity", threads=0), tokenizer)
    batch = next(stream)
    assert batch.texts is None
    assert batch.pieces.forms.is_subword_PS.sum(axis=1).tolist() == [1] * 32
    np.testing.assert_array_equal(batch.pieces.forms.surface_PS[:, 0], batch.pieces.target_P)
    assert not set(batch.pieces.target_P.tolist()) & (tokenizer.added_ids | {tokenizer.unknown_id})


def test_each_piece_comes_once_before_any_comes_again():
    tokenizer = unigram()
    n_pieces = len(vocabulary_pieces(tokenizer, max_subwords=7, mode="decompose"))
    stream = training_batches(DataConfig({}, pieces_per_batch=n_pieces // 3, threads=0), tokenizer)
    seen = np.concatenate([next(stream).pieces.target_P for _ in range(3)])
    assert len(set(seen.tolist())) == len(seen)


def test_pieces_beside_texts_resume(tmp_path):
    (tmp_path / "en.txt").write_text("\n".join(load_sample()["en"]), encoding="utf-8")
    texts = {"en": (str(tmp_path / "en.txt"),)}
    config = DataConfig(texts, batch_size=4, max_length=48, threads=0, pieces_per_batch=16, held_out=0)
    stream = training_batches(config, unigram())
    for _ in range(3):
        next(stream)
    state = stream.get_state()
    expected = [next(stream) for _ in range(4)]
    assert expected[0].texts.mask_BT.shape[0] == 4
    resumed = training_batches(config, unigram())
    resumed.set_state(state)
    assert_same(expected, [next(resumed) for _ in range(4)])


def test_a_vocabulary_of_characters_has_no_pieces_to_decompose():
    own = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0)], unk_id=0))
    with pytest.raises(InputError, match="No piece of this vocabulary"):
        training_batches(DataConfig({}, pieces_per_batch=4), ByteLevelTokenizer.convert(own))
