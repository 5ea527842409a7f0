"""A grown vocabulary as a folder: `tokenizer.json` for the `tokenizers` library, and the subwords of each entry.

`tokenizer.json` has the model type WordPiece with an empty prefix, which in `tokenizers` takes the longest entry that
fits, from the left: the same ids as `GrownVocabulary.encode` wherever the segments are the same. They are the same with
the boundaries `pretoken` and `sentence`, and with `word` on all text we tried. `word_hyphen` looks at subwords, not
characters, so with it the file may also split a contraction (`don't`) after its apostrophe. A tokenizer that puts a
space before a text's first part only (Metaspace's scheme `first`) has no such step in the file.
"""

import json
import os
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.numpy import load_file

from dyntok_jax.errors import InputError
from dyntok_jax.files import new_folder
from dyntok_jax.options import Boundary
from dyntok_jax.storage import check_not_lfs_pointer, read_json, save_arrays
from dyntok_jax.text import PRETOKEN_REGEX, ByteLevelTokenizer
from dyntok_jax.vocabulary.grown_vocabulary import GrownVocabulary, readable

CONFIG, ENTRIES, TOKENIZER = "config.json", "entries.safetensors", "tokenizer.json"
MODEL_TYPE = "dyntok_vocabulary"
_VERSION = 1
_LONGEST_WORD = 1 << 20
"""Bytes of the longest segment that `tokenizers` encodes; a longer one becomes the unknown token."""
_WORD = r"[ \t\n]+(?= [^\s])|[ \t\n]*[^ \t\n]+|[ \t\n]+"
_PUNCTUATION = r"[ \t\n]*[[\p{P}\p{S}]&&[^-]]+|[ \t\n]*[^[[\p{P}\p{S}]&&[^-]] \t\n]+|[ \t\n]+"
SPLITS: dict[str, tuple[str, ...]] = {
    "pretoken": (PRETOKEN_REGEX,),
    "word": (_WORD,),
    "word_hyphen": (_WORD, _PUNCTUATION),
    "sentence": (),
}
"""For each boundary the expressions that split a text into segments, applied one after the other."""


def save_vocabulary(
    folder: str | os.PathLike, vocabulary: GrownVocabulary, *, model: str = "", overwrite: bool = False
) -> None:
    """Writes a vocabulary; the folder appears under its name once it is complete.

    Args:
      folder: to create.
      vocabulary: to write.
      model: the model's name, for people who open the folder.
      overwrite: replace a folder of that name that has a `config.json`.

    Raises:
      CheckpointError: the folder exists already, or cannot be written.

    >>> save_vocabulary(folder / "vocab", grown, model="tiny")
    >>> sorted(path.name for path in (folder / "vocab").iterdir())
    ['config.json', 'entries.safetensors', 'tokenizer.json']
    """
    config = {
        "model_type": MODEL_TYPE,
        "version": _VERSION,
        "model": model,
        "tokenizer": vocabulary.tokenizer.fingerprint,
        "boundary": vocabulary.boundary,
        "max_subwords": vocabulary.constituents_ES.shape[1],
        "own_entries": vocabulary.n_own,
        "new_entries": vocabulary.size - vocabulary.n_own,
        "fingerprint": vocabulary.fingerprint,
    }
    with new_folder(folder, overwrite=overwrite) as part:
        save_arrays(part / ENTRIES, {"constituents": vocabulary.constituents_ES})
        (part / TOKENIZER).write_text(json.dumps(tokenizer_spec(vocabulary), ensure_ascii=False), encoding="utf-8")
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def tokenizer_spec(vocabulary: GrownVocabulary) -> dict[str, Any]:
    """The content of tokenizer.json."""
    tokenizer = vocabulary.tokenizer
    spec = json.loads(tokenizer.byte_level.to_str())
    unknown = tokenizer.pieces[tokenizer.unknown_id or 0]
    spec["model"] = {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": _LONGEST_WORD,
        "vocab": {string: index for index, string in enumerate([*tokenizer.pieces, *vocabulary.new_strings])},
    }
    cut_out = [token["content"] for token in spec["added_tokens"] if token["id"] in tokenizer.stand_ins]
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] not in tokenizer.stand_ins]
    expressions = SPLITS[vocabulary.boundary]
    if cut_out and vocabulary.boundary == "pretoken":  # they are pretokens; all is white space, which needs no escape
        expressions = ("|".join(sorted(cut_out, key=len, reverse=True)), *expressions)
    splits = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in expressions
    ]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, to_bytes]}
    return spec


def read_vocabulary_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads `config.json`: the model's name, the boundary, the numbers of entries.

    Raises:
      InputError: the folder is not a grown vocabulary, or has another version.

    >>> save_vocabulary(folder / "vocab", grown)
    >>> config = read_vocabulary_config(folder / "vocab")
    >>> config["own_entries"], config["new_entries"], config["boundary"]
    (600, 12, 'pretoken')
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    if config.get("model_type") != MODEL_TYPE:
        raise InputError(f"{folder} is not a grown vocabulary: name a folder that `dyntok build-vocab` wrote.")
    if config.get("version") != _VERSION:
        raise InputError(
            f"{folder} has version {config.get('version')}, but this program reads version {_VERSION}: build it again."
        )
    kinds = {"model": str, "tokenizer": str, "boundary": str, "fingerprint": str, "own_entries": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
    if wrong or config["boundary"] not in get_args(Boundary):
        raise InputError(f"{folder / CONFIG} is damaged ({', '.join(wrong or ['boundary'])}): build it again.")
    return config


def load_vocabulary(folder: str | os.PathLike, tokenizer: ByteLevelTokenizer) -> GrownVocabulary:
    """Reads a vocabulary.

    Args:
      folder: written by `save_vocabulary`.
      tokenizer: of the model.

    Raises:
      InputError: the folder is missing, damaged or for another model, or its `tokenizer.json` has duplicates, lacks
        entries of the model (special tokens above all), or has other entries than the vocabulary was built with.

    >>> save_vocabulary(folder / "vocab", grown)
    >>> load_vocabulary(folder / "vocab", decoder.tokenizer).fingerprint == grown.fingerprint
    True
    """
    folder = Path(folder)
    config = read_vocabulary_config(folder)
    if config["tokenizer"] != tokenizer.fingerprint:
        raise InputError(
            f"{folder} was built for another tokenizer (of {config['model'] or 'a model without a name'}, fingerprint "
            f"{config['tokenizer']}; the one in use has {tokenizer.fingerprint}): use that model, or build it again."
        )
    check_not_lfs_pointer(folder / ENTRIES, InputError)
    try:
        constituents_ES = load_file(folder / ENTRIES)["constituents"]
        vocabulary = GrownVocabulary(tokenizer, constituents_ES, config["boundary"])
    except InputError:
        raise
    except (OSError, SafetensorError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{folder / ENTRIES} cannot be read ({error}): build the vocabulary again.") from error
    _check_tokenizer(folder / TOKENIZER, vocabulary)
    if config["fingerprint"] != vocabulary.fingerprint:
        raise InputError(f"The entries in {folder} are not those it was built with: build it again.")
    return vocabulary


def _check_tokenizer(path: Path, vocabulary: GrownVocabulary) -> None:
    """Raises InputError if the file's entries are not the vocabulary's."""
    spec = _read_json(path)
    try:
        pairs = spec["model"]["vocab"]
        added = {token["content"] for token in spec["added_tokens"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not a tokenizer: {error} is missing. Build the vocabulary again.") from error
    own = vocabulary.tokenizer
    special = sorted(own.pieces[index] for index in own.special_ids)
    if missing := [piece for piece in special if piece not in pairs or piece not in added]:
        raise InputError(f"{path} lacks the special tokens {' '.join(missing)}: build the vocabulary again.")
    expected = {string: index for index, string in enumerate([*own.pieces, *vocabulary.new_strings])}
    if pairs == expected:
        return
    for string, index in expected.items():
        if pairs.get(string) != index:
            whose = "the model's own " if index < vocabulary.n_own else ""
            raise InputError(
                f"{path} does not have {whose}entry {index}, {readable(string)!r}, at its id: build it again."
            )
    unknown = next(string for string in pairs if string not in expected)
    raise InputError(f"{path} has {readable(unknown)!r}, which is not in {ENTRIES}: build the vocabulary again.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"There is no {path}: name a folder that `dyntok build-vocab` wrote.")
    return read_json(path, InputError, "build the vocabulary again")
