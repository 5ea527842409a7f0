"""MMLU (Hendrycks et al. 2021): its questions, their subjects' groups, and prompts with solved examples."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dyntok_jax.errors import InputError
from dyntok_jax.options import Style

LETTERS = "ABCD"
GROUPS = {
    "STEM": (
        "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
        "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
        "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
        "high_school_mathematics high_school_physics high_school_statistics machine_learning"
    ),
    "humanities": (
        "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
        "jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law "
        "world_religions"
    ),
    "social_sciences": (
        "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
        "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations "
        "security_studies sociology us_foreign_policy"
    ),
    "other": (
        "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
        "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology"
    ),
}
"""The subjects of each group, as the paper's own evaluation counts them."""
GROUP_OF = {subject: group for group, subjects in GROUPS.items() for subject in subjects.split()}


@dataclass(frozen=True)
class Question:
    """A question with its options; `answer` is the number of the right one."""

    subject: str
    text: str
    options: tuple[str, ...]
    answer: int


def read_questions(path: Path) -> dict[str, list[Question]]:
    """The questions of each subject, in the order of a file of JSON lines (.jsonl, .jsonl.gz).

    Each line has `subject`, `question`, `choices` and `answer`, a letter.

    Raises:
      InputError: the file cannot be read, or a line is something else; the message names it.
    """
    by_subject: dict[str, list[Question]] = {}
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                number += 1
                row = json.loads(line)
                subject, options = row["subject"], tuple(row["choices"])
                if subject not in GROUP_OF:
                    raise ValueError(f"{subject!r} is not a subject of MMLU")
                if len(options) != len(LETTERS):
                    raise ValueError(f"{len(options)} choices instead of {len(LETTERS)}")
                question = Question(subject, row["question"].strip(), options, LETTERS.index(row["answer"]))
                by_subject.setdefault(subject, []).append(question)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}, line {number}: {error!r}. A line must be JSON with subject, question, four choices and a letter "
            "as answer."
        ) from error
    return by_subject


def context_of(subject: str, solved: Sequence[Question], style: Style) -> str:
    """What precedes a question: what it is about, and solved examples in the form that the question will have."""
    context = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    for one in solved:
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, one.options, strict=True))
        answer = LETTERS[one.answer] if style == "letters" else one.options[one.answer]
        context += f"{one.text}{listed if style == 'letters' else ''}\nAnswer: {answer}\n\n"
    return context
