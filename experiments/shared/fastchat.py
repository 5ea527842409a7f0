"""MT-Bench (Zheng et al. 2023) in the format of FastChat's `llm_judge`: questions, answers of two turns, judgments."""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from dyntok_jax.errors import InputError
from dyntok_jax.storage import written

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""By category, as FastChat generates answers."""
WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose answers are judged beside a reference answer."""
N_TURNS = 2
Turns = tuple[str, str]


@dataclass(frozen=True)
class MtQuestion:
    """A question of two turns; `reference` is GPT-4's answers, where there are any."""

    number: int
    category: str
    turns: Turns
    reference: Turns | None = None


def read_lines_of_json(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines (.jsonl, .jsonl.gz).

    Raises:
      InputError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} has a line that is no JSON: {error}.") from error
    if bad := [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        raise InputError(f"{path}, line {bad[0]} is no JSON object.")
    return rows


def read_mt_questions(folder: Path) -> list[MtQuestion]:
    """The questions of a folder with question.jsonl.gz and, if there, reference_answer_gpt4.jsonl.gz.

    Raises:
      InputError: a file cannot be read, or a question is not FastChat's or of another category.
    """
    path, references = folder / "question.jsonl.gz", folder / "reference_answer_gpt4.jsonl.gz"
    rows = read_lines_of_json(references) if references.is_file() else []
    questions = []
    try:
        answers = {row["question_id"]: _two_turns(row["choices"][0]["turns"]) for row in rows}
        for row in read_lines_of_json(path):
            if row["category"] not in TEMPERATURES:
                raise ValueError(f"category {row['category']!r}")
            number = int(row["question_id"])
            questions.append(MtQuestion(number, row["category"], _two_turns(row["turns"]), answers.get(number)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder} holds something else than MT-Bench's questions ({error!r}): each needs question_id, one of the "
            f"categories {', '.join(TEMPERATURES)}, and two turns."
        ) from error
    return questions


def _two_turns(turns: Sequence[str]) -> Turns:
    first, second = turns
    return str(first), str(second)


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a file of JSON lines, complete or not at all.

    Raises:
      InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def answer_row(question: MtQuestion, model: str, turns: Turns, at: float) -> dict[str, Any]:
    """A line of `model_answer/MODEL.jsonl`."""
    return {
        "question_id": question.number,
        "answer_id": uuid5(NAMESPACE_URL, f"{model} {question.number} {turns}").hex[:22],
        "model_id": model,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": at,
    }
