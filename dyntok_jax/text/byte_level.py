"""Any Hugging Face fast tokenizer in byte-level form, the vocabulary that ZeTT hypernetworks index.

Every byte is one of 256 printable characters (GPT-2's table) and every piece a string of them: `▁the` becomes `Ġthe`,
`é` becomes `Ã©`. Pieces keep their ids; bytes that no piece stands for are appended after them. The text is split
into pretokens by ZeTT's regular expression and each pretoken is tokenized alone by the model's own Unigram, BPE or
WordPiece. Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer" (arXiv 2405.07883), section 3.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from dyntok_jax.errors import TokenizerError
from dyntok_jax.storage import check_not_lfs_pointer, parse_json, read_json
from dyntok_jax.text.byte_characters import to_byte_level, to_bytes
from dyntok_jax.text.byte_level_spec import (
    SpaceRule,
    byte_level_model,
    byte_level_normalizer,
    byte_level_post_processor,
    byte_level_pre_tokenizer,
    marks_spaces,
    space_rule,
)
from dyntok_jax.text.space_tokens import SpaceTokens

MOST_GAPS = 100_000
"""Ids without a piece that a small vocabulary may have; a large one, as many as it has pieces."""


@dataclass(frozen=True)
class ByteLevelTokenizer:
    """A model's tokenizer and its byte-level form.

    Attributes:
      own: the model's own tokenizer, untouched: what *static* means.
      byte_level: the same vocabulary and model over byte characters, split by `PRETOKEN_REGEX`.
      spellings: byte-level strings of the model's own ids. Those of `pieces` differ where one had to be renamed: of two
        that are spelt alike the second, and a byte piece (`<0x4B>`) beside the piece of its character.
      n_own: ids below are the model's own; ids from here on are appended bytes and have no source embedding.
      added_ids: ids of the added tokens, which never merge and keep their text; without the unknown token and those of
        white space, which stand for text.
      special_ids: the special ones among them, which do not stand for text and are not counted.
      space_ids: ids of the added tokens of white space, which are entries like all others.
      stand_ins: ids, after those of the vocabulary, by which `byte_level` knows an entry a second time → the entry's
        id. White space that is cut out of a text is an added token by its text, and an entry by its spelling.
      pad_id: the padding token's id, 0 where the tokenizer has none.
      unknown_id: the unknown token's id; None where every text has subwords (byte-level BPE).
      space: where a space is put before text, as by the model's own tokenizer.
      is_wordpiece: pieces are word-initial or `##` continuations, and spaces are not part of any piece.

    >>> tokenizer = ByteLevelTokenizer.load(encoder_folder)
    >>> tokenizer.retokenize(["Ġ"]) == [[tokenizer.pieces.index("Ġ")]]
    True
    >>> tokenizer.token_text(tokenizer.retokenize(["ĠFrÃ©"])[0])
    ' Fré'
    """

    own: Tokenizer
    byte_level: Tokenizer
    spellings: Sequence[str]
    n_own: int
    added_ids: frozenset[int]
    special_ids: frozenset[int]
    space_ids: frozenset[int]
    stand_ins: Mapping[int, int]
    pad_id: int
    unknown_id: int | None
    space: SpaceRule
    is_wordpiece: bool

    @classmethod
    def load(cls, folder: Path | str, *, keep_normalizer: bool = True) -> "ByteLevelTokenizer":
        """Reads `tokenizer.json` (and, for the padding token, `tokenizer_config.json`) from a model folder.

        Raises:
          TokenizerError: there is no such file, it is damaged, or the tokenizer has no byte-level form.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(
                f"{folder} has no tokenizer.json. Save the model's fast tokenizer there "
                f"(`AutoTokenizer.from_pretrained(...).save_pretrained(folder)`)."
            )
        own = _read_tokenizer(path)
        pad_token, config_path = None, folder / "tokenizer_config.json"
        if config_path.is_file():
            pad_token = read_json(config_path, TokenizerError, "repair or delete it").get("pad_token")
            if isinstance(pad_token, dict):  # older files write an added token as an object
                pad_token = pad_token.get("content")
            if not isinstance(pad_token, str | None):
                raise TokenizerError(f"{config_path} has the pad_token {pad_token!r}: it must be a text.")
        try:
            return cls._convert(own, pad_token, keep_normalizer)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    @classmethod
    def convert(
        cls, own: Tokenizer, *, pad_token: str | None = None, keep_normalizer: bool = True
    ) -> "ByteLevelTokenizer":
        """Converts a tokenizer to byte-level form.

        Args:
          own: the model's tokenizer; a copy without truncation and padding is kept.
          pad_token: its padding token's text, if the tokenizer itself does not say.
          keep_normalizer: normalise text as in the model's training (ZeTT drops the normaliser).

        Raises:
          TokenizerError: the tokenizer's model is not Unigram, BPE or WordPiece, or it marks word ends; two pieces have
            one id, or most ids no piece.
        """
        return cls._convert(Tokenizer.from_str(own.to_str()), pad_token, keep_normalizer)

    @classmethod
    def _convert(cls, own: Tokenizer, pad_token: str | None, keep_normalizer: bool) -> "ByteLevelTokenizer":
        """The same, but changes `own` instead of a copy."""
        pad_token = pad_token or (own.padding or {}).get("pad_token")
        own.no_truncation()
        own.no_padding()
        by_id = _pieces_by_id(own)
        n_own = max([own.get_vocab_size(with_added_tokens=True) - 1, *by_id]) + 1
        spec = json.loads(own.to_str())
        model = spec["model"]
        is_wordpiece = model["type"] == "WordPiece"
        space = space_rule(own, spec)
        if model["type"] == "Unigram":
            unknown_id = model.get("unk_id")
        else:
            unknown_id = own.token_to_id(model["unk_token"]) if model.get("unk_token") else None
        spaces = SpaceTokens.of(
            own, spec, marks_spaces=marks_spaces(own, spec), splits_first=space in ("always", "unless_there")
        )
        spec["model"], spellings, stand_ins = byte_level_model(own, spec, by_id, n_own, spaces.texts)
        spec["normalizer"] = byte_level_normalizer(spec, keep=keep_normalizer, space=space)
        spec["pre_tokenizer"] = byte_level_pre_tokenizer(is_wordpiece=is_wordpiece)
        spec["post_processor"] = byte_level_post_processor(spec["post_processor"])
        spec["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        added = [token for token in spec["added_tokens"] if token["id"] not in spaces.texts]
        cut_out = [
            token | {"content": spaces.texts[token["id"]], "special": False}
            for token in spec["added_tokens"]
            if token["id"] in spaces.whole
        ]
        spec["added_tokens"] = added + [
            token | {"id": index} for index, token in enumerate(cut_out, len(spec["model"]["vocab"]))
        ]
        for token in spec["added_tokens"]:  # otherwise the space before a text would be put before these too
            token["normalized"] = token["normalized"] and space == "none"
        with refused_by_rust(f"This {model['type']} tokenizer has no byte-level form"):
            byte_level = Tokenizer.from_str(json.dumps(spec))
        id_of = {token.content: index for index, token in byte_level.get_added_tokens_decoder().items()}
        return cls(
            own=own,
            byte_level=byte_level,
            spellings=spellings,
            n_own=n_own,
            added_ids=frozenset(token["id"] for token in added) - {unknown_id},
            special_ids=frozenset(token["id"] for token in added if token["special"]) - {unknown_id},
            space_ids=frozenset(spaces.texts),
            stand_ins=stand_ins | {id_of[token["content"]]: token["id"] for token in cut_out},
            pad_id=(own.token_to_id(pad_token) if pad_token else None) or 0,
            unknown_id=unknown_id,
            space=space,
            is_wordpiece=is_wordpiece,
        )

    @property
    def vocab_size(self) -> int:
        """Entries of the byte-level vocabulary, appended bytes included."""
        return len(self.pieces)

    @cached_property
    def pieces(self) -> list[str]:
        """The byte-level string of each id; added tokens keep their text."""
        by_id = {index: piece for piece, index in self.byte_level.get_vocab(with_added_tokens=False).items()}
        by_id |= {index: token.content for index, token in self.byte_level.get_added_tokens_decoder().items()}
        size = max(by_id.keys() - self.stand_ins.keys()) + 1 if self.stand_ins else max(by_id) + 1
        return [by_id.get(index, "") for index in range(size)]

    @cached_property
    def tokenless_ids(self) -> Int32[np.ndarray, "E"]:
        """Ids that stand for no token of the model's: gaps between its ids, and the bytes appended behind them.

        What the model's table holds in these rows, and in those behind them, was never trained.
        """
        gaps = [index for index in range(self.n_own) if self.own.id_to_token(index) is None]
        return np.array([*gaps, *range(self.n_own, self.vocab_size)], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """A digest that differs between tokenizers that could give a text different subwords."""
        return hashlib.sha256(self.byte_level.to_str().encode()).hexdigest()[:16]

    def token_string(self, ids: Iterable[int]) -> str:
        """The byte-level string of a token, given its subwords' ids."""
        spelt = [self._spelling(int(index)) for index in ids]
        return "".join(piece.removeprefix("##") for piece in spelt) if self.is_wordpiece else "".join(spelt)

    def _spelling(self, index: int) -> str:
        piece = self.spellings[index] if index < self.n_own else self.pieces[index]
        return to_byte_level(piece) if index in self.added_ids else piece

    def token_text(self, ids: Sequence[int]) -> str:
        """The text of a token for people to read; parts of a character show as U+FFFD."""
        return to_bytes(self.token_string(ids)).decode(errors="replace")

    def retokenize(self, strings: Sequence[str]) -> list[list[int]]:
        """Subword ids of byte-level strings, each tokenized alone by the model: no splitting, nothing added.

        ZeTT calls the result the surface form of the string. A special token's text is that token, and so is the
        white space that is cut out of a text whole.
        """
        whole = {to_byte_level(self.pieces[index]): [index] for index in self.special_ids}
        whole |= {self.spellings[index]: [index] for index in self.space_ids & {*self.stand_ins.values()}}
        model, entry = self.byte_level.model, self.stand_ins
        return [
            whole.get(string) or [entry.get(piece.id, piece.id) for piece in model.tokenize(string)]
            for string in strings
        ]

    def entries(self, ids: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
        """Puts the vocabulary's entries in the place of the stand-ins among ids that `byte_level` gave.

        >>> tokenizer.entries(np.array([5, 6], np.int32))
        array([5, 6], dtype=int32)
        """
        if not self.stand_ins:
            return ids
        entry_V = np.arange(max(self.vocab_size, *(index + 1 for index in self.stand_ins)), dtype=np.int32)
        entry_V[list(self.stand_ins)] = list(self.stand_ins.values())
        return entry_V[ids]


def _read_tokenizer(path: Path) -> Tokenizer:
    check_not_lfs_pointer(path, TokenizerError)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}.") from error
    parse_json(content, str(path), TokenizerError, "fetch it again")  # of names that come twice, the library takes one
    with refused_by_rust(f"{path} is not a readable tokenizer"):
        return Tokenizer.from_buffer(content)


@contextmanager
def refused_by_rust(what: str) -> Iterator[None]:
    """The library of tokenizers raises plain Exception for whatever it finds wrong, and panics, which are none.

    Raises:
      TokenizerError: it did; the message begins with `what`.

    >>> with refused_by_rust("This cannot be read"):
    ...     raise Exception("no vocabulary")
    Traceback (most recent call last):
        ...
    dyntok_jax.errors.TokenizerError: This cannot be read: no vocabulary
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise TokenizerError(f"{what}: {error}") from error


def _pieces_by_id(own: Tokenizer) -> dict[int, str]:
    """The piece of each id, added tokens included; ids may leave some out.

    Raises:
      TokenizerError: there is no piece, two have one id, or most ids have no piece.
    """
    pieces = own.get_vocab(with_added_tokens=True)
    by_id = {index: piece for piece, index in pieces.items()}
    if len(by_id) < len(pieces):
        other = next(piece for piece, index in pieces.items() if by_id[index] != piece)
        index = pieces[other]
        raise TokenizerError(f"The pieces {other!r} and {by_id[index]!r} have one id, {index}: fetch it again.")
    if not pieces:
        raise TokenizerError("The tokenizer has no piece: fetch it again.")
    last = max(by_id)
    if last >= 2 * len(pieces) + MOST_GAPS:
        raise TokenizerError(
            f"The piece {by_id[last]!r} has the id {last:,}, and there are {len(pieces):,} pieces: the file is "
            "damaged. Fetch it again."
        )
    return by_id
