"""The tokenizer inside a GGUF file, rebuilt as `tokenizer.json`: byte-level BPE, or SentencePiece's BPE.

The file holds the pieces and, for byte-level BPE, the merges; of the pre-tokenizer it holds only the name. llama.cpp's
`llama-vocab.cpp` defines the names; its regular expressions come from the published tokenizers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from dyntok_jax.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""The kinds of pieces (`tokenizer.ggml.token_type`)."""
USER_SCORE = 0.0
"""SentencePiece's score of pieces of the user's own, as good as the best; llama.cpp writes another."""
SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""Defaults of SentencePiece models, where the file has no ids."""

GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEFAULT_REGEXES = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_REGEX, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True)
class Splitting:
    """The pre-tokenizer that a name of `tokenizer.ggml.pre` means.

    Attributes:
      steps: the splits, then the byte level; GPT-2's split is part of ByteLevel.
      takes_whole: a pretoken that equals a piece becomes that piece, without merges.
      adds_bos: whether the beginning-of-text token is added if the file does not say.
    """

    steps: tuple[PreTokenizer, ...] = ()
    takes_whole: bool = False
    adds_bos: bool = False


def _isolated(*regexes: str) -> tuple[PreTokenizer, ...]:
    splits = tuple(Split(Regex(regex), behavior="isolated") for regex in regexes)
    return (*splits, ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False))


_GPT2 = (ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),)
_DIGITS = Splitting((Digits(individual_digits=True), *_GPT2))
_LLAMA3 = Splitting(_isolated(LLAMA3_REGEX), takes_whole=True, adds_bos=True)
SPLITTINGS = {
    "gpt-2": Splitting(_GPT2),
    "default": Splitting(_isolated(*DEFAULT_REGEXES)),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": Splitting(_isolated(LLAMA3_REGEX)),
    "tekken": Splitting(_isolated(TEKKEN_REGEX), takes_whole=True, adds_bos=True),
}


def gguf_tokenizer(path: Path, fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a file's metadata describes.

    Args:
      path: the file, for errors.
      fields: its metadata.

    Raises:
      CheckpointError: it is missing, damaged or not supported.
    """
    kind, tokens = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError(
            f"{path} has no tokenizer (tokenizer.ggml.tokens): the model is incomplete. Fetch it again."
        )
    types = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(
            f"{path} is damaged: {len(tokens)} pieces, but {len(types)} kinds of piece. Fetch it again."
        )
    try:
        match kind:
            case "gpt2":
                text_pieces = [piece for piece, kind in zip(tokens, types, strict=True) if kind == NORMAL]
                tokenizer = _byte_level_bpe(path, fields, text_pieces)
            case "llama":
                tokens = _with_written_spaces(tokens, types)
                tokenizer = _sentencepiece_bpe(path, fields, tokens, types)
            case _:
                raise CheckpointError(
                    f"{path} has a tokenizer of kind {kind!r}; only 'gpt2' (byte-level BPE) and 'llama' "
                    "(SentencePiece BPE) are supported."
                )
        tokenizer.add_tokens(list(_added_tokens(tokens, types)))
    except CheckpointError:
        raise
    except Exception as error:  # the Rust side raises plain Exception, for example for merges of missing pieces
        raise CheckpointError(f"{path} has a damaged tokenizer ({error}): fetch it again.") from error
    tokenizer.post_processor = _post_processor(path, fields)
    return tokenizer


def _byte_level_bpe(path: Path, fields: Mapping[str, Any], text_pieces: list[str]) -> Tokenizer:
    splitting = _splitting(path, fields)
    merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges") or []]
    vocabulary = _ids(fields["tokenizer.ggml.tokens"])
    if not merges and any(len(piece) > 1 for piece in text_pieces):
        raise CheckpointError(
            f"{path} has no merges (tokenizer.ggml.merges): all text would fall into single bytes. Fetch it again, or "
            "convert the model again with a current llama.cpp."
        )
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=splitting.takes_whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(splitting.steps))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _splitting(path: Path, fields: Mapping[str, Any]) -> Splitting:
    name = fields.get("tokenizer.ggml.pre")
    if name not in SPLITTINGS:
        found = "does not name its pre-tokenizer" if name is None else f"has the pre-tokenizer {name!r}"
        raise CheckpointError(
            f"{path} {found} (tokenizer.ggml.pre); supported are {', '.join(SPLITTINGS)}. Use the model's own "
            "tokenizer.json, from its Hugging Face checkpoint."
        )
    return SPLITTINGS[name]


def _with_written_spaces(tokens: list[str], types: list[int]) -> list[str]:
    """SentencePiece's spelling of runs of spaces, in which llama.cpp writes spaces if they are of their own kind."""
    return [
        piece.replace(" ", "▁") if kind == USER_DEFINED and not piece.strip(" ") else piece
        for piece, kind in zip(tokens, types, strict=True)
    ]


def _sentencepiece_bpe(path: Path, fields: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """SentencePiece joins the two neighbours whose union has the best score: merges in the order of scores.

    Pieces of the user's own are made like the others: Gemma's are runs of spaces and of line breaks.
    """
    scores = fields.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise CheckpointError(
            f"{path} is damaged: {len(tokens)} pieces, but {len(scores or [])} scores. Fetch it again."
        )
    parts = {piece for piece, kind in zip(tokens, types, strict=True) if kind in (NORMAL, USER_DEFINED)}
    merges = [
        (USER_SCORE if kind == USER_DEFINED else score, piece[:at], piece[at:])
        for piece, kind, score in zip(tokens, types, scores, strict=True)
        if piece in parts
        for at in range(1, len(piece))
        if piece[:at] in parts and piece[at:] in parts
    ]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1]), -len(merge[2])))  # as transformers' converters
    unknown = _token(fields, "unknown")
    pairs = [(left, right) for _, left, right in merges]
    model = models.BPE(_ids(tokens), pairs, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in types)
    tokenizer = Tokenizer(model)
    adds_space = fields.get("tokenizer.ggml.add_space_prefix", True)
    write_spaces = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.Prepend("▁")] if adds_space else []), *write_spaces])
    read = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*read, *([decoders.Strip(" ", 1, 0)] if adds_space else [])])
    return tokenizer


def _ids(tokens: Iterable[str]) -> dict[str, int]:
    """The id of each piece; of equal pieces, the first id."""
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        ids.setdefault(token, index)
    return ids


def _added_tokens(tokens: list[str], types: list[int]) -> Iterable[AddedToken]:
    for token, kind in zip(tokens, types, strict=True):
        if kind in (CONTROL, USER_DEFINED, UNKNOWN):
            yield AddedToken(token, normalized=False, special=kind != USER_DEFINED)


def _post_processor(path: Path, fields: Mapping[str, Any]) -> processors.PostProcessor | None:
    """Adds the tokens of a text's beginning and end as the file says; where it does not say, as llama.cpp does."""
    adds = adds_tokens(fields)
    names = {name: _token(fields, name) for name in ("bos", "eos") if adds[name]}
    absent = [name for name, token in names.items() if token is None]
    if absent:
        raise CheckpointError(
            f"{path} is damaged: texts must begin or end with a token it lacks: {', '.join(absent)}. Fetch it again."
        )
    steps: list[processors.PostProcessor] = []
    if fields["tokenizer.ggml.model"] == "gpt2":
        steps.append(processors.ByteLevel(trim_offsets=True))
    if names:
        single = [part for part in (names.get("bos"), "$A", names.get("eos")) if part]
        pair = [*single, *(f"{part}:1".replace("$A", "$B") for part in single)]
        special = [(token, token_id(fields, name)) for name, token in names.items()]
        steps.append(processors.TemplateProcessing(single=single, pair=pair, special_tokens=special))
    return processors.Sequence(steps) if steps else None


def adds_tokens(fields: Mapping[str, Any]) -> dict[str, bool]:
    """Whether the tokenizer puts `bos` before and `eos` after each text."""
    is_byte_level = fields["tokenizer.ggml.model"] == "gpt2"
    adds_bos = not is_byte_level or SPLITTINGS[fields["tokenizer.ggml.pre"]].adds_bos
    return {
        "bos": bool(fields.get("tokenizer.ggml.add_bos_token", adds_bos)),
        "eos": bool(fields.get("tokenizer.ggml.add_eos_token", False)),
    }


def token_id(fields: Mapping[str, Any], name: str) -> int | None:
    """The id of `bos`, `eos`, `padding` or `unknown`; None if there is none."""
    default = SENTENCEPIECE_IDS.get(name) if fields.get("tokenizer.ggml.model") == "llama" else None
    return fields.get(f"tokenizer.ggml.{name}_token_id", default)


def gguf_tokenizer_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers needs besides `tokenizer.json`: the class, the special tokens and the chat template.

    Args:
      fields: the metadata of a file from which `gguf_tokenizer` has made a tokenizer.
    """
    config = {
        # The model's own class would rebuild the tokenizer by its own rules.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    if (limit := fields.get(f"{fields.get('general.architecture')}.context_length")) is not None:
        config["model_max_length"] = limit
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    config |= {key: token for key, name in names.items() if (token := _token(fields, name)) is not None}
    config |= {f"add_{name}_token": adds for name, adds in adds_tokens(fields).items()}
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _token(fields: Mapping[str, Any], name: str) -> str | None:
    index, tokens = token_id(fields, name), fields["tokenizer.ggml.tokens"]
    return tokens[index] if index is not None and 0 <= index < len(tokens) else None
