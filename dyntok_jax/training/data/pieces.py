"""Vocabulary decomposition: pieces of the vocabulary, whose rows are known, written as shorter pieces of it.

A piece is split as the model's tokenizer would split its text without that piece, or at random. No text is read, and
the model does not run: 250,000 targets at no cost.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from dyntok_jax.errors import InputError
from dyntok_jax.kernels import (
    FIRST,
    NONE,
    REST,
    build_trie,
    index_pairs,
    split_at_random,
    split_by_longest,
    split_by_merges,
    split_by_score,
)
from dyntok_jax.text import BYTE_CHARACTERS, FILLER_SCORE, ByteLevelTokenizer, continues, piece_texts
from dyntok_jax.training.data.data_config import PieceMode
from dyntok_jax.training.data.training_batch import PieceBatch, SurfaceForms

Trie = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Spellings:
    """The pieces of a vocabulary that have text and a source row, as bytes, M in all.

    Attributes:
      id_M: their ids, ascending.
      bytes_N: all of them end to end.
      offset: where each begins, and the end.
      root_M: what their first part may be: `FIRST` or, where a piece continues a word (WordPiece), `REST`.
      rest: the same for all other parts.
    """

    id_M: Int32[np.ndarray, "M"]
    bytes_N: Int32[np.ndarray, "N"]
    offset: Int64[np.ndarray, "M_and_one"]
    root_M: Int32[np.ndarray, "M"]
    rest: int

    def __len__(self) -> int:
        return len(self.id_M)

    def take(self, rows: np.ndarray) -> "Spellings":
        """Some of them."""
        parts = [self.bytes_N[self.offset[row] : self.offset[row + 1]] for row in rows.tolist()]
        bytes_N = np.concatenate([np.zeros(0, np.int32), *parts])
        offset = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return Spellings(self.id_M[rows], bytes_N, offset, self.root_M[rows], self.rest)


@dataclass(frozen=True)
class VocabularyPieces:
    """Pieces to train on, and the parts of each.

    Attributes:
      spellings: of the pieces.
      part_MS: the parts of each by the model's tokenizer, or (identity) itself; then NONE.
      trie: of all pieces that may be parts; None for identity.
    """

    spellings: Spellings
    part_MS: Int32[np.ndarray, "M S"]
    trie: Trie | None

    def __len__(self) -> int:
        return len(self.spellings)


def vocabulary_pieces(tokenizer: ByteLevelTokenizer, *, max_subwords: int, mode: PieceMode) -> VocabularyPieces:
    """Finds the pieces to train on: all but special tokens and those without a row in the model's table.

    Args:
      tokenizer: of the model.
      max_subwords: S, the most parts a piece.
      mode: `decompose` takes the pieces that the tokenizer's model splits into 2 to S others, none of them an appended
        byte, when the piece itself is banned; `identity` takes all, each as itself.

    Raises:
      InputError: there is no such piece.
    """
    model = json.loads(tokenizer.byte_level.to_str())["model"]
    spellings = own_spellings(tokenizer, model)
    if mode == "identity":
        part_MS = np.full((len(spellings), max_subwords), NONE, np.int32)
        part_MS[:, 0] = spellings.id_M
        return VocabularyPieces(spellings, part_MS, None)
    trie = build_trie(spellings.bytes_N, spellings.offset, spellings.id_M, spellings.root_M)
    part_MS = split_as_model(model, spellings, trie, max_subwords)
    part_MS = np.where(part_MS == NONE, NONE, tokenizer.entries(part_MS))
    can_be_part_V = np.zeros(tokenizer.vocab_size + 1, bool)
    can_be_part_V[spellings.id_M] = can_be_part_V[NONE] = True  # NONE is the last of all
    rows = np.flatnonzero((part_MS[:, 0] != NONE) & can_be_part_V[part_MS].all(axis=1))
    if not len(rows):
        raise InputError(
            f"No piece of this vocabulary can be written as 2 to {max_subwords} shorter ones: train without pieces."
        )
    return VocabularyPieces(spellings.take(rows), np.ascontiguousarray(part_MS[rows]), trie)


def own_spellings(tokenizer: ByteLevelTokenizer, model: dict[str, Any]) -> Spellings:
    """The pieces that can occur in a text and have a source row.

    Args:
      tokenizer: of the model.
      model: its byte-level model, as tokenizer.json writes it.
    """
    out_of_reach: set[int] = set()
    if model["type"] == "Unigram":  # fillers for pieces that were renamed
        out_of_reach = {index for index, (_, score) in enumerate(model["vocab"]) if score <= FILLER_SCORE}
    ids, parts, roots = [], [], []
    for index, text in enumerate(piece_texts(tokenizer)[: tokenizer.n_own]):
        if text is None or index in out_of_reach:
            continue
        ids.append(index)
        parts.append(text)
        roots.append(REST if tokenizer.is_wordpiece and continues(tokenizer.pieces[index]) else FIRST)
    return Spellings(
        id_M=np.array(ids, np.int32),
        bytes_N=np.frombuffer(b"".join(parts), np.uint8).astype(np.int32),
        offset=np.cumsum([0, *map(len, parts)], dtype=np.int64),
        root_M=np.array(roots, np.int32),
        rest=REST if tokenizer.is_wordpiece else FIRST,
    )


def split_as_model(model: dict[str, Any], spellings: Spellings, trie: Trie, width: int) -> Int32[np.ndarray, "M S"]:
    """Each piece as a tokenizer's model splits it when the piece itself is banned.

    Args:
      model: the byte-level model, as tokenizer.json writes it.
      spellings: of the pieces.
      trie: of the same.
      width: S, the most parts.

    Returns:
      The parts, then NONE; all NONE where S parts are not enough.
    """
    text = (spellings.bytes_N, spellings.offset)
    match model["type"]:
        case "Unigram":
            score_V = np.array([score for _, score in model["vocab"]], np.float64)
            return split_by_score(*text, spellings.root_M, spellings.rest, *trie, score_V, width)
        case "WordPiece":
            return split_by_longest(*text, spellings.root_M, spellings.rest, *trie, width)
    id_of = model["vocab"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    left_M, right_M, joined_M = (
        np.array([id_of[piece] for piece in pieces], np.int32)
        for pieces in (
            [left for left, _ in merges],
            [right for _, right in merges],
            [left + right for left, right in merges],
        )
    )
    key_M, table, _ = index_pairs(left_M, right_M)
    byte_id = np.array([id_of[character] for character in BYTE_CHARACTERS], np.int32)
    return split_by_merges(*text, byte_id, key_M, table, joined_M, width)


def make_piece_batch(
    pieces: VocabularyPieces,
    rows_P: Int64[np.ndarray, "P"],
    language_P: Int32[np.ndarray, "P"],
    *,
    random_probability: float,
    rng: np.random.Generator,
) -> PieceBatch[np.ndarray]:
    """The batch of these pieces.

    Args:
      pieces: of the vocabulary.
      rows_P: which of them.
      language_P: the language index to predict each under.
      random_probability: the share that is split at random instead of by the model's tokenizer; identities never are.
      rng: draws them.
    """
    part_PS = pieces.part_MS[rows_P]
    if pieces.trie is not None:
        is_random_P = rng.random(len(rows_P)) < random_probability
        part_PS[is_random_P] = random_parts(pieces, pieces.trie, rows_P[is_random_P], rng)
    is_subword_PS = part_PS != NONE
    forms = SurfaceForms(
        surface_PS=np.where(is_subword_PS, part_PS, 0).astype(np.int32),
        is_subword_PS=is_subword_PS,
        language_P=language_P,
    )
    return PieceBatch(forms=forms, target_P=pieces.spellings.id_M[rows_P])


def random_parts(
    pieces: VocabularyPieces, trie: Trie, rows_P: Int64[np.ndarray, "P"], rng: np.random.Generator
) -> Int32[np.ndarray, "P S"]:
    """Splits pieces at random: draws the number of parts first, then one of the splits with so many."""
    chosen = pieces.spellings.take(rows_P)
    uniform_PC = rng.random((len(rows_P), pieces.part_MS.shape[1] + 1))
    return split_at_random(chosen.bytes_N, chosen.offset, chosen.root_M, chosen.rest, *trie, uniform_PC)
