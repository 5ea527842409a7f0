"""Where training text comes from: plain text, JSON lines, parquet files, Hugging Face data sets.

A source is written as one string, so that it fits a command line and a config file:

    de.txt  de.txt.gz                      one paragraph a line
    de.jsonl  de.jsonl.gz                  one JSON object a line; its field `text`
    de.parquet                             its column `text`
    hf:NAME  hf:NAME:CONFIG:SPLIT          a data set of the Hugging Face Hub or in a folder; its column `text`

`::FIELD` after any but the first names another field or column: `de.jsonl::body`. A text of several lines is several
paragraphs. The split may select a part of a data set (`train[:5%]`).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dyntok_jax.errors import InputError
from dyntok_jax.storage import check_not_lfs_pointer, json_kind
from dyntok_jax.text import decode_line, stream_byte_lines, stream_lines

DATASET = "hf:"
FIELD = "text"
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_PARQUET_SUFFIX = ".parquet"
_SAVED_DATASET_FILES = ("state.json", "dataset_dict.json")


def read_paragraphs(source: str) -> list[str]:
    """Reads all paragraphs of a source into memory, without white space around them; empty ones are left out.

    Raises:
      InputError: as `stream_paragraphs`.
    """
    return list(stream_paragraphs(source))


def stream_paragraphs(source: str) -> Iterator[str]:
    """The paragraphs of a source one by one, with a single line, or a batch of a parquet file, in memory.

    Raises:
      InputError: it cannot be read, is damaged, or has no such field; or a package is missing.
    """
    name, _, field = source.partition("::")
    if name.startswith(DATASET):
        texts = _dataset_texts(name.removeprefix(DATASET), field or FIELD)
    elif name.endswith(_JSON_SUFFIXES):
        texts = _json_texts(name, field or FIELD)
    elif name.endswith(_PARQUET_SUFFIX):
        texts = _parquet_texts(name, field or FIELD)
    elif field:
        raise InputError(
            f"{source} names the field {field!r}, but {name} is read as plain text: give it the ending .jsonl."
        )
    else:
        texts = stream_lines(name)
    for text in texts:
        yield from filter(None, map(str.strip, text.split("\n")))


def _json_texts(file: str, field: str) -> Iterator[str]:
    for number, line in enumerate(stream_byte_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        text = decode_line(line, where)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON ({error}): give one JSON object a line.") from error
        if not isinstance(row, dict):
            raise InputError(f"{where} is {json_kind(row)}, not an object: give one object a line.")
        if field not in row:
            raise InputError(f"{where} has no field {field!r}: name one of {_named(row)} ({file}::FIELD).")
        yield from _checked([row[field]], where)


def _parquet_texts(file: str, field: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"Reading {file} takes pyarrow: pip install 'dyntok_jax[data]'.") from None
    try:
        if Path(file).is_file():
            check_not_lfs_pointer(Path(file), InputError)
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if field not in columns:
            raise InputError(f"{file} has no column {field!r}: name one of {_named(columns)} ({file}::COLUMN).")
        for batch in table.iter_batches(columns=[field]):
            yield from _checked(batch.column(0).to_pylist(), f"{file}, column {field}")
    except FileNotFoundError:
        raise InputError(f"There is no file {file}: give a parquet file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}, column {field} holds text that is not UTF-8 ({error}): convert it.") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a complete parquet file ({_first_line(error)}): download it again.") from error


def _dataset_texts(name: str, field: str) -> Iterator[str]:
    dataset = open_dataset(name)
    if field not in dataset.column_names:
        columns = _named(dataset.column_names)
        path = name.split(":")[0]
        raise InputError(f"The data set {path} has no column {field!r}: name one of {columns} (hf:{name}::COLUMN).")
    yield from _checked(dataset[field], f"The data set {name.split(':')[0]}, column {field}")


def open_dataset(name: str) -> Any:
    """A data set of the Hugging Face Hub, or one saved in a folder.

    Args:
      name: NAME, NAME:CONFIG or NAME:CONFIG:SPLIT; the split is `train` by default.

    Raises:
      InputError: it cannot be loaded, or datasets is not installed.

    >>> from datasets import Dataset
    >>> Dataset.from_dict({"text": ["Freiheit"]}).save_to_disk(folder)
    >>> open_dataset(str(folder)).column_names
    ['text']
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"Reading the data set {name} takes datasets: pip install 'dyntok_jax[data]'.") from None
    path, config, split = (*name.split(":", 2), "", "")[:3]
    try:
        if any((Path(path) / file).is_file() for file in _SAVED_DATASET_FILES):
            dataset = datasets.load_from_disk(path)
            return dataset[split or "train"] if isinstance(dataset, dict) else dataset
        return datasets.load_dataset(path, config or None, split=split or "train")
    except Exception as error:  # the library raises many kinds, of its own and of others
        raise InputError(
            f"The data set {path} cannot be loaded ({_first_line(error)}): check its name, and write "
            f"hf:NAME:CONFIG:SPLIT if it has several configs or no split `train`."
        ) from error


def _checked(values: Iterable[Any], where: str) -> Iterator[str]:
    """Checks that the values are texts; missing ones are left out."""
    for text in values:
        if text is None:
            continue
        if not isinstance(text, str):
            raise InputError(f"{where} holds {json_kind(text)}, not a text: name another field.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{where} holds a lone surrogate (half a character): repair the text.") from None
        yield text


def _named(fields: Iterable[str]) -> str:
    return ", ".join(fields) or "none (it is empty)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
