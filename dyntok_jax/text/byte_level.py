"""Any Hugging Face fast tokenizer in byte-level form, the vocabulary that ZeTT hypernetworks index.

Every byte is one of 256 printable characters (GPT-2's table) and every piece a string of them: `▁the` becomes `Ġthe`,
`é` becomes `Ã©`. Pieces keep their ids; the bytes that no piece stands for are appended behind them. The text is split
into pretokens by ZeTT's regular expression and each pretoken is tokenized alone by the model's own Unigram, BPE or
WordPiece. Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer" (arXiv 2405.07883), section 3.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from dyntok_jax.errors import TokenizerError

PRETOKEN_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FILLER_SCORE = -100_000.0
"""Unigram score of an appended byte: low enough that any real piece wins."""


def _byte_characters() -> list[str]:
    """GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
"""The character that stands for each byte."""
SPACE = BYTE_CHARACTERS[0x20]


_TO_CHARACTER = dict(enumerate(BYTE_CHARACTERS))
_TO_BYTE = {ord(character): byte for byte, character in enumerate(BYTE_CHARACTERS)}


def to_byte_level(text: str) -> str:
    """Writes a text as byte characters: `to_byte_level(" é") == "ĠÃ©"`."""
    return text.encode().decode("latin-1").translate(_TO_CHARACTER)


def to_bytes(byte_level: str) -> bytes:
    """The bytes that byte characters stand for, the inverse of `to_byte_level`."""
    return byte_level.translate(_TO_BYTE).encode("latin-1")


@dataclass(frozen=True)
class ByteLevelTokenizer:
    """A model's tokenizer beside its byte-level form.

    Attributes:
      own: the model's own tokenizer, untouched: what *static* means.
      byte_level: the same vocabulary and model over byte characters, split by `PRETOKEN_REGEX`.
      n_own: ids below are the model's own; ids from here on are appended bytes and have no source embedding.
      special_ids: ids of the added tokens, which never merge and keep their text; the unknown token is none of them,
        since it stands for text.
      pad_id: the padding token's id, 0 where the tokenizer has none.
      unknown_id: the unknown token's id; None where every text has subwords (byte-level BPE).
      adds_space: whether each text gets one leading space, as the model's own tokenizer gives it.
      is_wordpiece: pieces are word-initial or `##` continuations, and spaces are not part of any piece.
    """

    own: Tokenizer
    byte_level: Tokenizer
    n_own: int
    special_ids: frozenset[int]
    pad_id: int
    unknown_id: int | None
    adds_space: bool
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
        try:
            own = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust reader raises plain Exception for every kind of damage
            raise TokenizerError(f"{path} is not a readable tokenizer: {error}") from error
        pad_token = None
        config_path = folder / "tokenizer_config.json"
        if config_path.is_file():
            try:
                pad_token = json.loads(config_path.read_text(encoding="utf-8")).get("pad_token")
            except ValueError as error:
                raise TokenizerError(f"{config_path} is not JSON: {error}") from error
        if isinstance(pad_token, dict):  # older files spell an added token out
            pad_token = pad_token.get("content")
        return cls._convert(own, pad_token, keep_normalizer)

    @classmethod
    def convert(
        cls, own: Tokenizer, *, pad_token: str | None = None, keep_normalizer: bool = True
    ) -> "ByteLevelTokenizer":
        """Brings a tokenizer to byte-level form.

        Args:
          own: the model's tokenizer; a copy without truncation and padding is kept.
          pad_token: its padding token's text, if the tokenizer itself does not say.
          keep_normalizer: normalise text as the model was trained (ZeTT drops the normaliser).

        Raises:
          TokenizerError: the tokenizer's model is none of Unigram, BPE, WordPiece, or marks word ends.
        """
        return cls._convert(Tokenizer.from_str(own.to_str()), pad_token, keep_normalizer)

    @classmethod
    def _convert(cls, own: Tokenizer, pad_token: str | None, keep_normalizer: bool) -> "ByteLevelTokenizer":
        """The same, taking `own` over."""
        pad_token = pad_token or (own.padding or {}).get("pad_token")
        own.no_truncation()
        own.no_padding()
        spec = json.loads(own.to_str())
        model = spec["model"]
        is_wordpiece = model["type"] == "WordPiece"
        adds_space = not is_wordpiece and _first_pretoken(own, "a")[:1] in ("▁", SPACE)
        n_own = own.get_vocab_size(with_added_tokens=True)
        if max(own.get_vocab(with_added_tokens=True).values(), default=-1) >= n_own:
            n_own = max(own.get_vocab(with_added_tokens=True).values()) + 1  # ids with gaps
        unknown = model.get("unk_token")
        unknown_id = model.get("unk_id") if model["type"] == "Unigram" else unknown and own.token_to_id(unknown)
        spec["model"] = _byte_level_model(own, spec, n_own)
        spec["normalizer"] = _byte_level_normalizer(spec["normalizer"], keep_normalizer, adds_space)
        spec["pre_tokenizer"] = _byte_level_pre_tokenizer(is_wordpiece)
        spec["post_processor"] = _without_byte_level(spec["post_processor"], "processors")
        spec["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return cls(
            own=own,
            byte_level=Tokenizer.from_str(json.dumps(spec)),
            n_own=n_own,
            special_ids=frozenset(token["id"] for token in spec["added_tokens"]) - {unknown_id},
            pad_id=(own.token_to_id(pad_token) if pad_token else None) or 0,
            unknown_id=unknown_id,
            adds_space=adds_space,
            is_wordpiece=is_wordpiece,
        )

    @property
    def vocab_size(self) -> int:
        """Entries of the byte-level vocabulary, appended bytes included."""
        return len(self.pieces)

    @cached_property
    def pieces(self) -> list[str]:
        """The byte-level string of each id; special tokens keep their text."""
        by_id = {index: piece for piece, index in self.byte_level.get_vocab(with_added_tokens=True).items()}
        return [by_id.get(index, "") for index in range(max(by_id) + 1)]

    @cached_property
    def fingerprint(self) -> str:
        """A digest that differs wherever two tokenizers could give a text different subwords."""
        return hashlib.sha256(self.byte_level.to_str().encode()).hexdigest()[:16]

    def token_string(self, ids: Iterable[int]) -> str:
        """The byte-level string of a token, given its subwords' ids."""
        if not self.is_wordpiece:
            return "".join(self.pieces[index] for index in ids)
        return "".join(self.pieces[index].removeprefix("##") for index in ids)

    def token_text(self, ids: Sequence[int]) -> str:
        """The text of a token for people to read; bytes that are no whole character show as U+FFFD."""
        if any(index in self.special_ids for index in ids):
            return "".join(self.pieces[index] for index in ids)
        return to_bytes(self.token_string(ids)).decode(errors="replace")

    def retokenize(self, strings: Sequence[str]) -> list[list[int]]:
        """Subword ids of byte-level strings, each tokenized alone by the model: no splitting, nothing added.

        ZeTT calls the result the surface form of the string. A special token's text is that token.
        """
        special = {self.pieces[index]: [index] for index in self.special_ids}
        model = self.byte_level.model
        return [special.get(string) or [piece.id for piece in model.tokenize(string)] for string in strings]


def _first_pretoken(tokenizer: Tokenizer, text: str) -> str:
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is not None:
        text = tokenizer.pre_tokenizer.pre_tokenize_str(text)[0][0]
    return text


def _byte_level_model(own: Tokenizer, spec: dict, n_own: int) -> dict:
    """The tokenizer's model over byte characters, as tokenizer.json writes it."""
    model = dict(spec["model"])
    if model.get("end_of_word_suffix"):
        raise TokenizerError(f"BPE with an end-of-word suffix ({model['end_of_word_suffix']!r}) is not supported.")
    special = {token["content"] for token in spec["added_tokens"]}
    is_byte_level = any(
        part.get("type") == "ByteLevel"
        for part in _parts(spec["pre_tokenizer"], "pretokenizers") + _parts(spec["decoder"], "decoders")
    )
    spell = _speller(own, model, is_byte_level)

    by_id = {index: piece for piece, index in own.get_vocab(with_added_tokens=True).items()}
    spelt = [by_id.get(index, f"<unused {index}>") for index in range(n_own)]  # ids may have gaps
    spelt = [piece if piece in special else spell(piece) for piece in spelt]
    pieces, taken = list(spelt), set()
    for index, piece in enumerate(spelt):
        if piece in taken:  # two pieces differ only in what byte-level form drops: the first one stays reachable
            pieces[index] = f"<duplicate {index}>"
        taken.add(piece)
    if model.get("byte_fallback"):
        # <0xFF> keeps its name: ZeTT's table has 255 entries and its checkpoints index the result.
        names = {f"<0x{byte:02X}>": BYTE_CHARACTERS[byte] for byte in range(255)}
        pieces = [piece if names.get(piece, piece) in taken else names[piece] for piece in pieces]
        taken.update(pieces)
        model["byte_fallback"] = False

    match model["type"]:
        case "Unigram":
            # a piece that had to take another name is out of reach, and a filler byte is the last resort
            scores = [score for _, score in model["vocab"]] + [FILLER_SCORE] * (n_own - len(model["vocab"]))
            kept = zip(pieces, spelt, scores, strict=True)
            fillers = [character for character in BYTE_CHARACTERS if character not in taken]
            model["vocab"] = [(piece, score if piece == was else FILLER_SCORE) for piece, was, score in kept]
            model["vocab"] += [(character, FILLER_SCORE) for character in fillers]
        case "BPE":
            pieces += [character for character in BYTE_CHARACTERS if character not in taken]
            merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            merges = [(spell(left), spell(right)) for left, right in merges]
            composed, extra = _compositions(pieces[:n_own], merges, special) if not is_byte_level else ([], [])
            pieces += extra
            model["merges"] = [list(merge) for merge in composed + merges]
            model["vocab"] = {piece: index for index, piece in enumerate(pieces)}
            model["unk_token"] = None
        case "WordPiece":
            for prefix in ("", "##"):  # a byte may begin a word or go on in it
                pieces += [prefix + character for character in BYTE_CHARACTERS if prefix + character not in taken]
            model["vocab"] = {piece: index for index, piece in enumerate(pieces)}
            # Longer words stay unknown, as in the model's own (its search is quadratic); a character has up to 4 bytes.
            model["max_input_chars_per_word"] *= 4
        case other:
            raise TokenizerError(f"A tokenizer of type {other} has no byte-level form; Unigram, BPE, WordPiece have.")
    return model


def _speller(own: Tokenizer, model: dict, is_byte_level: bool):
    """The function from a piece as the tokenizer writes it to its byte-level string."""
    if is_byte_level:
        return lambda piece: piece
    if model["type"] == "WordPiece":
        if model["continuing_subword_prefix"] != "##":
            raise TokenizerError(f"WordPiece with prefix {model['continuing_subword_prefix']!r} is not supported.")
        return lambda piece: (
            "##" + to_byte_level(piece[2:]) if piece.startswith("##") and len(piece) > 2 else to_byte_level(piece)
        )
    if "▁" in _first_pretoken(own, " a") or "▁a" in model["vocab"]:
        return lambda piece: to_byte_level(piece.replace("▁", " "))
    return to_byte_level


def _compositions(
    pieces: Sequence[str], merges: Sequence[tuple[str, str]], special: set[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Merges that build the tokenizer's atoms (characters) from bytes, and the new pieces they pass through.

    Bytes join two by two, then the pairs two by two, and so on: `abcd` by `ab`, `cd`, `abcd`; `abc` by `ab`, `abc`.
    """
    # <0xFF> is not among the names left out: released checkpoints count the pieces its spelling passes through.
    names = special | {f"<0x{byte:02X}>" for byte in range(255)}
    atoms = {piece for merge in merges for piece in merge} | {
        piece for piece in pieces if piece not in names and not piece.startswith(("<unused ", "<duplicate "))
    }
    built = {left + right for left, right in merges}
    rounds: dict[tuple[str, str], int] = {}
    for atom in atoms - built:
        parts, depth = list(atom), 0
        while len(parts) > 1:
            for left, right in zip(parts[::2], parts[1::2], strict=False):
                rounds[left, right] = min(depth, rounds.get((left, right), depth))
            parts = ["".join(parts[at : at + 2]) for at in range(0, len(parts), 2)]
            depth += 1

    def priority(merge):
        is_continuation = 0x80 <= _TO_BYTE[ord(merge[0][0])] < 0xC0  # the start of a character decides first
        return rounds[merge], is_continuation, merge

    known = set(pieces)
    extra = sorted({left + right for left, right in rounds} - known)
    return sorted(rounds, key=priority), extra


def _parts(spec: dict | None, key: str) -> list[dict]:
    """The members of a (possibly nested) sequence in tokenizer.json, or the thing itself."""
    if spec is None:
        return []
    if spec["type"] == "Sequence":
        return [part for member in spec[key] for part in _parts(member, key)]
    return [spec]


def _without_byte_level(spec: dict | None, key: str) -> dict | None:
    """A post-processor without its offset trimming: our spans keep the spaces."""
    parts = [part for part in _parts(spec, key) if part["type"] != "ByteLevel"]
    for part in parts:
        if "trim_offsets" in part:
            part["trim_offsets"] = False
    return {"type": "Sequence", key: parts} if parts else None


def _byte_level_normalizer(spec: dict | None, keep: bool, adds_space: bool) -> dict | None:
    """The model's normaliser without the steps that write spaces as `▁`, then the leading space."""
    parts = []
    for part in _parts(spec, "normalizers") if keep else []:
        if part["type"] == "Prepend" and part["prepend"] == "▁":
            continue
        if part["type"] == "Replace" and part["content"] == "▁":
            if part["pattern"] == {"String": " "}:
                continue
            part = {**part, "content": " "}  # a run of spaces becomes one
        parts.append(part)
    if adds_space:
        parts.append({"type": "Prepend", "prepend": " "})
    return {"type": "Sequence", "normalizers": parts} if parts else None


def _byte_level_pre_tokenizer(is_wordpiece: bool) -> dict:
    split = {"type": "Split", "pattern": {"Regex": PRETOKEN_REGEX}, "behavior": "Isolated", "invert": False}
    drop_spaces = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Removed", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, *([drop_spaces] if is_wordpiece else []), to_bytes]}
