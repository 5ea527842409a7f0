"""The inputs of `dyntok score`: prompts with continuations, or multiple-choice questions, from JSON lines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dyntok_jax.errors import InputError
from dyntok_jax.storage import json_kind
from dyntok_jax.text import STDIN, decode_line, read_bytes

EXAMPLE_LANGUAGES = ("en", "es", "de")
SHAPES = '{"prompt": "…", "continuation": "…"} or {"question": "…", "options": ["…", "…"], "answer": 0}'


@dataclass(frozen=True)
class Pair:
    """A prompt and its continuation."""

    prompt: str
    continuation: str

    @property
    def n_texts(self) -> int:
        """Texts that are scored for it."""
        return 1


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` is the index of the right option."""

    question: str
    options: Sequence[str]
    answer: int

    @property
    def n_texts(self) -> int:
        """Texts that are scored for it."""
        return len(self.options)


def read_rows(prompt: str | None, continuation: str | None, file: str | None) -> list[Pair] | list[Question]:
    """The pair given, the rows of a file, or an example if there is neither.

    Args:
      prompt: of the pair.
      continuation: of the pair.
      file: JSON lines, unpacked if it ends in `.gz`; `-` is standard input. Blank lines are skipped.

    Raises:
      InputError: half a pair, or a pair and a file; the file cannot be read, or has rows of both kinds or none; a row
        is malformed (the error names its line).
    """
    if file is None and prompt is None:
        return example_pairs()
    if file is not None and prompt is not None:
        raise InputError(f"Both a prompt and --file {file} were given: give one of them.")
    if file is None:
        if continuation is None:
            raise InputError('There is a prompt without a continuation: give two texts, such as "1 + 1 is" " 2".')
        return [Pair(_text(prompt, "The prompt"), _text(continuation, "The continuation"))]
    name = "Standard input" if file == STDIN else file
    rows = []
    for number, line in enumerate(read_bytes(file).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            rows.append(_row(line, f"{name}, line {number}"))
    if not rows:
        raise InputError(f"{name} holds no rows: give lines like {SHAPES}.")
    if len({type(row) for row in rows}) > 1:
        raise InputError(f"{name} holds prompts and questions: give each kind a file of its own.")
    return rows


def example_pairs() -> list[Pair]:
    """Article 1 of the Universal Declaration in three languages, the second half as the continuation of the first."""
    from dyntok_jax.assets import load_sample

    sample, pairs = load_sample(), []
    for language in EXAMPLE_LANGUAGES:
        text = sample[language][0]
        middle = text.index(" ", len(text) // 2)
        pairs.append(Pair(text[:middle], text[middle:]))
    return pairs


def _row(line: bytes, where: str) -> Pair | Question:
    text = decode_line(line, where)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): give one JSON object per line.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is {json_kind(row)}, not an object: write {SHAPES}.")
    if {"prompt", "continuation"} <= row.keys():
        return Pair(*(_text(row[name], f"{where}: {name}") for name in ("prompt", "continuation")))
    if not {"question", "options", "answer"} <= row.keys():
        raise InputError(f"{where} has the fields {', '.join(row) or '(none)'}: write {SHAPES}.")
    options = row["options"]
    if not isinstance(options, list) or not options:
        raise InputError(f'{where}: options must be a list of texts, such as ["yes", "no"].')
    options = [_text(option, f"{where}: option {number}") for number, option in enumerate(options)]
    return Question(_text(row["question"], f"{where}: question"), options, _answer(row["answer"], len(options), where))


def _answer(answer: Any, n_options: int, where: str) -> int:
    """The index of the right option, which may be given as a letter."""
    if isinstance(answer, str) and len(answer) == 1 and "A" <= answer.upper() <= "Z":
        answer = ord(answer.upper()) - ord("A")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < n_options:
        raise InputError(
            f"{where}: the answer is {answer!r}, but there are {n_options} options: give a number from 0 to "
            f"{n_options - 1}, or a letter from A."
        )
    return answer


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{what} must be a non-empty text, got {value!r}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} holds a lone surrogate (half a character): repair the text.") from None
    return value
