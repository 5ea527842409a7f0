"""The bytes of text that each piece of a byte-level vocabulary stands for."""

import re

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from dyntok_jax.text.byte_characters import CHARACTER_BYTES, to_bytes
from dyntok_jax.text.byte_level import ByteLevelTokenizer

CONTINUES = "##"
"""What WordPiece writes before a piece that continues a word."""
_NAMED = re.compile(r"<(unused|duplicate) \d+>|<0x[0-9A-F]{2}>")
"""Entries of a byte-level vocabulary that are names, not spellings."""


def piece_texts(tokenizer: ByteLevelTokenizer) -> list[bytes | None]:
    """The text of each piece, the `##` of WordPiece left out.

    Returns:
      None for pieces that text is never written with: added tokens, the unknown token, entries that are only names.

    >>> texts = piece_texts(tokenizer)
    >>> texts[tokenizer.pad_id], texts[tokenizer.pieces.index("ĠFreiheit")]
    (None, b' Freiheit')
    """
    no_text = tokenizer.added_ids | {tokenizer.unknown_id}
    return [
        None if index in no_text else _text_of(piece, tokenizer.is_wordpiece)
        for index, piece in enumerate(tokenizer.pieces)
    ]


def piece_bytes(
    tokenizer: ByteLevelTokenizer,
) -> tuple[UInt8[np.ndarray, "N"], Int64[np.ndarray, "V_and_one"], Bool[np.ndarray, "V"]]:
    """The texts of `piece_texts` as arrays, for compiled loops.

    Returns:
      All texts end to end; where each begins, and the end; and which pieces have a text. The others are empty.

    >>> text_N, offset, is_text_V = piece_bytes(tokenizer)
    >>> at = tokenizer.pieces.index("ĠFreiheit")
    >>> bytes(text_N[offset[at] : offset[at + 1]]), is_text_V[at]
    (b' Freiheit', np.True_)
    """
    texts = piece_texts(tokenizer)
    text_N = np.frombuffer(bytearray().join(text or b"" for text in texts), np.uint8)
    offset = np.cumsum([0, *(len(text or b"") for text in texts)], dtype=np.int64)
    return text_N, offset, np.array([text is not None for text in texts], bool)


def continues(piece: str) -> bool:
    """Whether a piece of a WordPiece vocabulary continues a word.

    >>> continues("##ing"), continues("sing")
    (True, False)
    """
    return piece.startswith(CONTINUES) and len(piece) > len(CONTINUES)


def _text_of(piece: str, is_wordpiece: bool) -> bytes | None:
    spelt = piece.removeprefix(CONTINUES) if is_wordpiece and continues(piece) else piece
    if not spelt or _NAMED.fullmatch(piece) or not CHARACTER_BYTES.keys() >= set(spelt):
        return None
    return to_bytes(spelt)
