"""A grown vocabulary as a folder: `tokenizer.json` for the `tokenizers` library, and what each entry is made of.

`tokenizer.json` holds the model type WordPiece with an empty prefix, which in `tokenizers` is the longest entry that
fits, from the left: the same ids as `GrownVocabulary.encode` wherever the segments are the same. They are with the
boundaries `pretoken` and `sentence`, and with `word` on all text that we know of. `word_hyphen` looks at subwords, not
at characters, so there the file may part a contraction (`don't`) behind its apostrophe, too. A tokenizer that puts a
space before the first stretch of text only (Metaspace's scheme `first`) has no such step in the file.
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
"""Bytes of the longest segment that `tokenizers` looks at; a longer one is the unknown token."""
_WORD = r"[ \t\n]+(?= [^\s])|[ \t\n]*[^ \t\n]+|[ \t\n]+"
_PUNCTUATION = r"[ \t\n]*[[\p{P}\p{S}]&&[^-]]+|[ \t\n]*[^[[\p{P}\p{S}]&&[^-]] \t\n]+|[ \t\n]+"
SPLITS: dict[str, tuple[str, ...]] = {
    "pretoken": (PRETOKEN_REGEX,),
    "word": (_WORD,),
    "word_hyphen": (_WORD, _PUNCTUATION),
    "sentence": (),
}
"""Of each boundary the expressions that match segments, one after the other."""


def save_vocabulary(
    folder: str | os.PathLike, vocabulary: GrownVocabulary, *, model: str = "", overwrite: bool = False
) -> None:
    """Writes a vocabulary; the folder appears under its name once it is whole.

    Args:
      folder: to be made.
      vocabulary: to write.
      model: the model's name, for whoever opens the folder.
      overwrite: replace a folder of that name that has a `config.json`.

    Raises:
      CheckpointError: the folder is there already, or cannot be written.
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
    """The vocabulary as tokenizer.json writes it."""
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
    splits = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in SPLITS[vocabulary.boundary]
    ]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, to_bytes]}
    return spec


def read_vocabulary_config(folder: str | os.PathLike) -> dict[str, Any]:
    """What `config.json` says: the model's name, the boundary, how many entries.

    Raises:
      InputError: the folder is no grown vocabulary, or one of another version.
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    if config.get("model_type") != MODEL_TYPE:
        raise InputError(f"{folder} is no grown vocabulary: name a folder that `dyntok build-vocab` wrote.")
    if config.get("version") != _VERSION:
        raise InputError(
            f"{folder} has version {config.get('version')}, this program reads {_VERSION}: build it again."
        )
    kinds = {"model": str, "tokenizer": str, "boundary": str, "fingerprint": str, "own_entries": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
    if wrong or config["boundary"] not in get_args(Boundary):
        raise InputError(f"{folder / CONFIG} is damaged ({', '.join(wrong or ['boundary'])}): build it again.")
    return config


def load_vocabulary(folder: str | os.PathLike, tokenizer: ByteLevelTokenizer) -> GrownVocabulary:
    """Reads a vocabulary.

    Args:
      folder: that `save_vocabulary` wrote.
      tokenizer: of the model.

    Raises:
      InputError: no such folder, another model's, a damaged one; or a `tokenizer.json` with duplicates, without entries
        of the model (special tokens above all), or with others than those that the vocabulary was built with.
    """
    folder = Path(folder)
    config = read_vocabulary_config(folder)
    if config["tokenizer"] != tokenizer.fingerprint:
        raise InputError(
            f"{folder} was built for another tokenizer (of {config['model'] or 'a model without a name'}, fingerprint "
            f"{config['tokenizer']}; the one in use has {tokenizer.fingerprint}): take that model, or build it again."
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
        raise InputError(f"The entries in {folder} are not those that it was built with: build it again.")
    return vocabulary


def _check_tokenizer(path: Path, vocabulary: GrownVocabulary) -> None:
    """Raises InputError if the file's entries are not the vocabulary's."""
    spec = _read_json(path)
    try:
        pairs = spec["model"]["vocab"]
        added = {token["content"] for token in spec["added_tokens"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no tokenizer: {error} is missing. Build the vocabulary again.") from error
    own = vocabulary.tokenizer
    special = sorted(own.pieces[index] for index in own.special_ids)
    if lost := [piece for piece in special if piece not in pairs or piece not in added]:
        raise InputError(f"{path} lacks the special tokens {' '.join(lost)}: build the vocabulary again.")
    expected = {string: index for index, string in enumerate([*own.pieces, *vocabulary.new_strings])}
    if pairs == expected:
        return
    for string, index in expected.items():
        if pairs.get(string) != index:
            whose = "the model's own " if index < vocabulary.n_own else ""
            raise InputError(
                f"{path} does not have {whose}entry {index}, {readable(string)!r}, where it was: build it again."
            )
    unknown = next(string for string in pairs if string not in expected)
    raise InputError(f"{path} has {readable(unknown)!r}, of which {ENTRIES} knows nothing: build the vocabulary again.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"There is no {path}: name a folder that `dyntok build-vocab` wrote.")
    return read_json(path, InputError, "build the vocabulary again")
