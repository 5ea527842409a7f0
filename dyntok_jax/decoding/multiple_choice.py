"""Multiple-choice questions as prompts and continuations to score, and the answer from the scores."""

from collections.abc import Sequence
from typing import get_args

import numpy as np

from dyntok_jax.decoding.results import Choice, ScoredText
from dyntok_jax.errors import InputError
from dyntok_jax.options import Style, check_choice, check_list
from dyntok_jax.text import check_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice_prompts(
    questions: Sequence[str], options: Sequence[Sequence[str]], style: Style, context: str
) -> tuple[list[str], list[str]]:
    """A prompt and a continuation for every option of every question, in order; for arguments see `choose`.

    Raises:
      InputError: an unknown style, or a question with no options or more than there are letters.
    """
    check_choice("style", style, get_args(Style))
    check_list("questions", questions)
    check_list("options", options)
    if len(questions) != len(options):
        raise InputError(
            f"There are {len(questions)} questions, but options for {len(options)}: give each question a list."
        )
    prompts, continuations = [], []
    for number, (question, of_question) in enumerate(zip(questions, options, strict=True)):
        check_list(f"options of question {number}", of_question)
        if not 1 <= len(of_question) <= len(LETTERS):
            raise InputError(f"Question {number} has {len(of_question)} options: give 1 to {len(LETTERS)}.")
        for place, option in enumerate(of_question):
            check_text(option, f"Option {place} of question {number}")
        letters = LETTERS[: len(of_question)]
        listed = [f"\n{letter}. {option}" for letter, option in zip(letters, of_question, strict=True)]
        listing, answers = ("".join(listed), letters) if style == "letters" else ("", of_question)
        prompts += [f"{context}{question}{listing}\nAnswer:"] * len(of_question)
        continuations += [f" {answer}" for answer in answers]
    return prompts, continuations


def choice_of(texts: Sequence[ScoredText], style: Style) -> Choice:
    """The answer to a question, from the scores of its options: the first among equals."""
    scores = [text.total if style == "letters" else -text.bits_per_byte for text in texts]
    return Choice(best=int(np.argmax(scores)), scores=scores, prompts=texts[0].prompts, row=texts[0].row)
