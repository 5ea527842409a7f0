"""Aligned texts: JSON lines where each line is one paragraph in several languages.

    {"key": "article/1/1", "en": "All human beings are born free …", "de": "Alle Menschen sind frei …"}

`key` names the paragraph and may be left out; every other field is a language code with the text in that language. A
line may lack a language. Files ending in `.gz` are unpacked.
"""

import json
from pathlib import Path
from typing import Any

from dyntok_jax.errors import InputError
from dyntok_jax.storage import json_kind
from dyntok_jax.text.lines import read_bytes

KEY_FIELD = "key"


def read_aligned(path: str | Path) -> dict[str, list[str | None]]:
    """Reads aligned JSON lines as one column of texts a language.

    Args:
      path: a `.jsonl` or `.jsonl.gz` file. Blank lines are skipped.

    Returns:
      Language code → one entry a paragraph, None where the paragraph has no text (or an empty one) in that language;
      all lists are equally long. Languages are in the order of their first appearance.

    Raises:
      InputError: there is no such file, it has no paragraphs, or a line (its number is named) is not UTF-8, is not a
        JSON object, or has a text that is not a string or holds lone surrogates.

    >>> path = folder / "texts.jsonl"
    >>> _ = path.write_text('{"key": "1", "en": "Freedom", "de": "Freiheit"}')
    >>> read_aligned(path)
    {'en': ['Freedom'], 'de': ['Freiheit']}
    """
    rows = read_rows(path)
    languages = list(dict.fromkeys(field for row in rows for field in row if field != KEY_FIELD))
    return {language: [row.get(language) or None for row in rows] for language in languages}


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Reads aligned JSON lines row by row: one dictionary a paragraph, with its key.

    Args:
      path: a `.jsonl` or `.jsonl.gz` file. Blank lines are skipped.

    Returns:
      One dictionary a paragraph: language code → text, and `key` → name if the line has one. Null fields are left out.

    Raises:
      InputError: as `read_aligned`.

    >>> path = folder / "texts.jsonl"
    >>> _ = path.write_text('{"key": "1", "en": "Freedom", "de": "Freiheit"}')
    >>> read_rows(path)
    [{'key': '1', 'en': 'Freedom', 'de': 'Freiheit'}]
    """
    path = Path(path)
    rows = []
    # The lines are split as bytes: str.splitlines() would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(read_bytes(str(path)).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            rows.append(_parse_line(line, f"{path}, line {number}"))
    if not any(set(row) - {KEY_FIELD} for row in rows):
        raise InputError(
            f'{path} holds no texts: give one JSON object a line, such as {{"en": "Hello", "de": "Hallo"}}.'
        )
    return rows


def _parse_line(line: bytes, where: str) -> dict[str, str]:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8 text.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): give one JSON object a line.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is {json_kind(row)}, not an object: write {{language: text, …}}.")
    for field, text in row.items():
        if text is not None and not isinstance(text, str):
            raise InputError(f"{where}: field {field!r} is {json_kind(text)}, not a text; leave it out or quote it.")
        if text is not None and not _is_encodable(text):
            raise InputError(f"{where}: field {field!r} holds a lone surrogate (half a character); repair the text.")
    return {field: text for field, text in row.items() if text is not None}


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
