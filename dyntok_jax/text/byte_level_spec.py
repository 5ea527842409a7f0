"""tokenizer.json rewritten to byte level: vocabulary, merges, normaliser, pre-tokenizer. Plain dictionaries in and out.

This file decides the ids that released hypernetworks index, so the golden traces test every line of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from tokenizers import Tokenizer

from dyntok_jax.errors import TokenizerError
from dyntok_jax.text.byte_characters import BYTE_CHARACTERS, CHARACTER_BYTES, SPACE, for_all, to_byte_level

PRETOKEN_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SpaceRule = Literal["none", "always", "unless_there", "first"]
"""Where a space is put. `always`: before every part of a text between added tokens. `unless_there`: the same, unless
the part begins with one. `first`: so before the first part only, if the text does not begin with an added token."""
FILLER_SCORE = -100_000.0
"""Unigram score of an appended byte: low enough that any real piece wins."""


def first_pretoken(tokenizer: Tokenizer, text: str) -> str:
    """The first pretoken of a text, as the tokenizer's model sees it; empty where nothing is left of it."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is not None:
        parts = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        text = parts[0][0] if parts else ""
    return text


def byte_level_model(
    own: Tokenizer, spec: dict, by_id: dict[int, str], n_own: int, spaces: Mapping[int, str]
) -> tuple[dict, list[str], dict[int, int]]:
    """The tokenizer's model over byte characters, as tokenizer.json writes it.

    Args:
      own: the tokenizer.
      spec: the same as tokenizer.json writes it.
      by_id: its pieces, added tokens included.
      n_own: the number of its ids, which may have gaps.
      spaces: the white space that added tokens stand for, by id; these are pieces like all others.

    Returns:
      The model; and the byte-level string that each of the tokenizer's own ids stands for, whatever it is called in the
      model: a byte piece (`<0x4B>`) stands for its byte, a gap between ids for nothing; and second names of pieces,
      which come after the vocabulary: their ids → the ids of the pieces.
    """
    model = dict(spec["model"])
    if model.get("end_of_word_suffix"):
        raise TokenizerError(f"BPE with an end-of-word suffix ({model['end_of_word_suffix']!r}) is not supported.")
    special = {token["content"] for token in spec["added_tokens"] if token["id"] not in spaces}
    is_byte_level = _is_byte_level(spec)
    spell = _speller(own, spec)

    named = [by_id.get(index) or f"<unused {index}>" for index in range(n_own)]
    spelt = [piece if piece in special else spelling for piece, spelling in zip(named, spell(named), strict=True)]
    for index, text in spaces.items():
        spelt[index] = to_byte_level(text)
    bytes_of = {f"<0x{byte:02X}>": BYTE_CHARACTERS[byte] for byte in range(256)} if model.get("byte_fallback") else {}
    spellings = [bytes_of.get(piece, piece) if index in by_id else "" for index, piece in enumerate(spelt)]
    pieces, taken = list(spelt), set()
    in_order = [index for index in range(n_own) if index not in spaces] if spaces else range(n_own)
    for index in [*in_order, *spaces]:
        piece = spelt[index]
        if piece in taken:  # two pieces differ only in what byte-level form drops: the first one stays reachable
            pieces[index] = f"<duplicate {index}>"
        taken.add(piece)
    if model.get("byte_fallback"):
        # <0xFF> keeps its name: ZeTT's table has 255 entries and its checkpoints index the result.
        names = {name: character for name, character in bytes_of.items() if name != "<0xFF>"}
        pieces = [piece if names.get(piece, piece) in taken else names[piece] for piece in pieces]
        taken.update(pieces)
        model["byte_fallback"] = False

    second_names: dict[int, int] = {}
    match model["type"]:
        case "Unigram":
            # a piece that had to be renamed is never chosen, and a filler byte only as the last resort
            scores = [score for _, score in model["vocab"]] + [FILLER_SCORE] * (n_own - len(model["vocab"]))
            kept = zip(pieces, spelt, scores, strict=True)
            fillers = [character for character in BYTE_CHARACTERS if character not in taken]
            model["vocab"] = [(piece, score if piece == was else FILLER_SCORE) for piece, was, score in kept]
            model["vocab"] += [(character, FILLER_SCORE) for character in fillers]
        case "BPE":
            pieces += [character for character in BYTE_CHARACTERS if character not in taken]
            merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            merges = list(zip(spell([left for left, _ in merges]), spell([right for _, right in merges]), strict=True))
            apart = special | {spelt[index] for index in spaces}
            composed, extra = _compositions(pieces[:n_own], merges, apart) if not is_byte_level else ([], [])
            pieces += extra
            model["merges"] = [list(merge) for merge in composed + merges]
            model["vocab"] = {piece: index for index, piece in enumerate(pieces)}
            # an added token that merges build too keeps its text, so what they build has a second name
            products = {left + right for left, right in merges}
            added = [index for index in range(n_own) if by_id.get(index) in special]
            spelt_added = zip(spell([by_id[index] for index in added]), added, strict=True)
            twins = {twin: at for twin, at in spelt_added if twin in products and twin not in model["vocab"]}
            second_names = dict(enumerate(twins.values(), len(pieces)))
            model["vocab"] |= dict(zip(twins, second_names, strict=True))
            model["unk_token"] = None
        case "WordPiece":
            for prefix in ("", "##"):  # a byte may begin a word or continue one
                pieces += [prefix + character for character in BYTE_CHARACTERS if prefix + character not in taken]
            model["vocab"] = {piece: index for index, piece in enumerate(pieces)}
            # Longer words stay unknown, as in the model's own (its search is quadratic); a character has up to 4 bytes.
            model["max_input_chars_per_word"] *= 4
        case other:
            raise TokenizerError(f"A {other} tokenizer has no byte-level form: it must be Unigram, BPE or WordPiece.")
    return model, spellings, second_names


def _is_byte_level(spec: dict) -> bool:
    parts = _parts(spec["pre_tokenizer"], "pretokenizers") + _parts(spec["decoder"], "decoders")
    return any(part.get("type") == "ByteLevel" for part in parts)


def marks_spaces(own: Tokenizer, spec: dict) -> bool:
    """Whether the tokenizer's pieces write a space as `▁`."""
    if _is_byte_level(spec) or spec["model"]["type"] == "WordPiece":
        return False
    return "▁" in first_pretoken(own, " a") or "▁a" in spec["model"]["vocab"]


def _speller(own: Tokenizer, spec: dict) -> Callable[[Sequence[str]], list[str]]:
    """The function from pieces as the tokenizer writes them to their byte-level strings."""
    model = spec["model"]
    if _is_byte_level(spec):
        return list
    if model["type"] == "WordPiece":
        if model["continuing_subword_prefix"] != "##":
            raise TokenizerError(f"WordPiece with prefix {model['continuing_subword_prefix']!r} is not supported.")
        return lambda pieces: [
            "##" + to_byte_level(piece[2:]) if piece.startswith("##") and len(piece) > 2 else to_byte_level(piece)
            for piece in pieces
        ]
    writes_marks = marks_spaces(own, spec)

    def spell(text: str) -> str:
        return to_byte_level(text.replace("▁", " ") if writes_marks else text)

    return lambda pieces: for_all(spell, pieces, "\0", BYTE_CHARACTERS[0])


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
        is_continuation = 0x80 <= CHARACTER_BYTES[merge[0][0]] < 0xC0  # the start of a character decides first
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


def byte_level_post_processor(spec: dict | None) -> dict | None:
    """A post-processor without its offset trimming: our spans keep the spaces."""
    parts = [part for part in _parts(spec, "processors") if part["type"] != "ByteLevel"]
    for part in parts:
        if "trim_offsets" in part:
            part["trim_offsets"] = False
    return {"type": "Sequence", "processors": parts} if parts else None


def space_rule(own: Tokenizer, spec: dict) -> SpaceRule:
    """Where the model's own tokenizer puts a space before text."""
    if spec["model"]["type"] == "WordPiece" or first_pretoken(own, "a")[:1] not in ("▁", SPACE):
        return "none"
    if any(part["type"] == "Prepend" for part in _parts(spec["normalizer"], "normalizers")):
        return "always"
    splits = _parts(spec["pre_tokenizer"], "pretokenizers")
    is_first = any(part["type"] == "Metaspace" and part.get("prepend_scheme") == "first" for part in splits)
    return "first" if is_first else "unless_there"


def byte_level_normalizer(spec: dict, *, keep: bool, space: SpaceRule) -> dict | None:
    """The model's normaliser without the steps that write spaces as `▁`, then the leading space.

    A normaliser sees each part between added tokens alone, so it cannot put a space before the first only: that is left
    to `TextEncoder`.

    Where the model's own pre-tokenizer drops white space (XLM-R's does), runs of it become one space and the ends are
    stripped, as in the model's training.
    """
    parts = []
    for part in _parts(spec["normalizer"], "normalizers") if keep else []:
        if part["type"] == "Prepend" and part["prepend"] == "▁":
            continue
        if part["type"] == "Replace" and part["content"] == "▁":
            if part["pattern"] == {"String": " "}:
                continue
            part = {**part, "content": " "}  # a run of spaces becomes one
        parts.append(part)
    if keep and any(part["type"] == "WhitespaceSplit" for part in _parts(spec["pre_tokenizer"], "pretokenizers")):
        parts.append({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "})
        parts.append({"type": "Strip", "strip_left": True, "strip_right": True})
    if space in ("always", "unless_there"):
        parts.append({"type": "Prepend", "prepend": " "})
    if keep and space == "unless_there":  # ZeTT doubles it
        parts.append({"type": "Replace", "pattern": {"Regex": r"\A  "}, "content": " "})
    return {"type": "Sequence", "normalizers": parts} if parts else None


def byte_level_pre_tokenizer(*, is_wordpiece: bool) -> dict:
    """ZeTT's split, then bytes; WordPiece, whose pieces carry no spaces, drops them."""
    split = {"type": "Split", "pattern": {"Regex": PRETOKEN_REGEX}, "behavior": "Isolated", "invert": False}
    drop_spaces = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Removed", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, *([drop_spaces] if is_wordpiece else []), to_bytes]}
