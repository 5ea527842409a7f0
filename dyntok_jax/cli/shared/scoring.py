"""Continuations and answers scored after static and merged prompts, and the tables and JSON of the results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log
from typing import Any, TypeVar

import numpy as np
from rich.table import Table

from dyntok_jax.cli.shared.decoder_options import Reading
from dyntok_jax.cli.shared.figures import NOTHING, figures_table, percent, reduction_percent
from dyntok_jax.cli.shared.scored_rows import Pair, Question
from dyntok_jax.decoding import Choice, DynamicDecoder, ScoredText
from dyntok_jax.errors import TooLongError
from dyntok_jax.options import STATIC, Style
from dyntok_jax.text import ByteLevelTokenizer

Scored = TypeVar("Scored", ScoredText, Choice)

TOO_LONG = "A prompt fits the model only when merged, so static tokenization was skipped."


@dataclass(frozen=True)
class TextScores:
    """Scores of continuations.

    Attributes:
      pairs: prompts and continuations.
      dynamic: scores after the merged prompts; None if prompts are not merged.
      static: scores after the prompts' static tokens; None if a prompt fits the model only when merged.
    """

    pairs: Sequence[Pair]
    dynamic: Sequence[ScoredText] | None
    static: Sequence[ScoredText] | None

    @property
    def asked(self) -> Sequence[ScoredText]:
        """The scores that were asked for: after merged prompts or, by default, static ones."""
        asked = self.static if self.dynamic is None else self.dynamic
        assert asked is not None, "prompts were read in one way at least"
        return asked

    def table(self) -> Table:
        """A line for static and, if prompts were merged, one for dynamic tokenization."""
        static_tokens, tokens = _count_tokens(self.asked)
        if self.dynamic is None:
            return figures_table([{"tokens": f"{tokens}"} | self._probabilities(self.static)])
        reduction, agreement = percent(reduction_percent(static_tokens, tokens)), percent(self._agreement())
        return figures_table(
            [
                {"": "static", "tokens": f"{static_tokens}", "reduction": NOTHING}
                | self._probabilities(self.static)
                | {"agreement": NOTHING},
                {"": "dynamic", "tokens": f"{tokens}", "reduction": reduction}
                | self._probabilities(self.dynamic)
                | {"agreement": agreement},
            ]
        )

    def notes(self) -> list[str]:
        """What the table's numbers mean, in sentences."""
        follows = f"{sum(len(text.ids) for text in self.asked)} ({self._n_bytes()} bytes)."
        if self.dynamic is None:
            return [
                f"tokens: of the prompts, special tokens not counted. Tokens that follow: {follows}",
                "log-prob: natural logarithm, summed.",
            ]
        notes = [
            "tokens: of the prompts, special tokens not counted. What follows is the same tokens both times: "
            f"{follows}",
            "log-prob: natural logarithm, summed. agreement: how often the most probable next token is the same.",
        ]
        return notes if self.static is not None else [*notes, TOO_LONG]

    def figures(self) -> dict[str, float | int | None]:
        """The same as one flat object."""
        static_tokens, tokens = _count_tokens(self.asked)
        figures: dict[str, float | int | None] = {
            "texts": len(self.pairs),
            "bytes": self._n_bytes(),
            "continuation_tokens": sum(len(text.ids) for text in self.asked),
            "static_tokens": static_tokens,
            "tokens": tokens,
            "log_probability": _total(self.asked),
            "bits_per_byte": self._bits_per_byte(self.asked),
        }
        if self.dynamic is None:
            return figures
        figures["reduction_percent"] = reduction_percent(static_tokens, tokens)
        if self.static is not None:
            figures["static_log_probability"] = _total(self.static)
            figures["static_bits_per_byte"] = self._bits_per_byte(self.static)
            figures["agreement_percent"] = self._agreement()
        return figures

    def lines(self, tokenizer: ByteLevelTokenizer) -> Iterator[dict[str, Any]]:
        """One object per text, for JSON lines; `tokens` are those of the prompt as read, special tokens included."""
        for number, (pair, text) in enumerate(zip(self.pairs, self.asked, strict=True)):
            line = {
                "prompt": pair.prompt,
                "continuation": pair.continuation,
                "n_static": text.n_static,
                "n_tokens": text.n_tokens,
                "log_probability": text.total,
                "bits_per_byte": text.bits_per_byte,
                "tokens": text.prompt_tokens.strings(tokenizer),
            }
            if self.dynamic is not None and self.static is not None:
                static = self.static[number]
                line |= {
                    "static_log_probability": static.total,
                    "static_bits_per_byte": static.bits_per_byte,
                    "agreement_percent": _agreement([static], [text]),
                }
            yield line

    def _probabilities(self, texts: Sequence[ScoredText] | None) -> dict[str, str]:
        if texts is None:
            return {"log-prob": NOTHING, "bits/byte": NOTHING}
        return {"log-prob": f"{_total(texts):.2f}", "bits/byte": f"{self._bits_per_byte(texts):.3f}"}

    def _n_bytes(self) -> int:
        return sum(len(pair.continuation.encode()) for pair in self.pairs)

    def _bits_per_byte(self, texts: Sequence[ScoredText]) -> float:
        return -_total(texts) / (self._n_bytes() * log(2))

    def _agreement(self) -> float | None:
        return None if self.static is None or self.dynamic is None else _agreement(self.static, self.dynamic)


@dataclass(frozen=True)
class AnswerScores:
    """Answers to multiple-choice questions.

    Attributes:
      questions: the questions.
      dynamic: the answers to merged questions; None if questions are not merged.
      static: the answers to static questions; None if a question fits the model only when merged.
    """

    questions: Sequence[Question]
    dynamic: Sequence[Choice] | None
    static: Sequence[Choice] | None

    @property
    def asked(self) -> Sequence[Choice]:
        """The answers that were asked for: to merged questions or, by default, static ones."""
        asked = self.static if self.dynamic is None else self.dynamic
        assert asked is not None, "prompts were read in one way at least"
        return asked

    def table(self) -> Table:
        """A line for static and, if questions were merged, one for dynamic tokenization."""
        static_tokens, tokens = _count_tokens(self.asked)
        if self.dynamic is None:
            row = {"questions": f"{len(self.questions)}", "tokens": f"{tokens}"}
            return figures_table([row | {"accuracy": percent(self._accuracy(self.static))}])
        counts = {
            "static": {"tokens": f"{static_tokens}", "reduction": NOTHING},
            "dynamic": {"tokens": f"{tokens}", "reduction": percent(reduction_percent(static_tokens, tokens))},
        }
        return figures_table(
            [
                {"": name, "questions": f"{len(self.questions)}"}
                | counts[name]
                | {
                    "accuracy": percent(self._accuracy(choices)),
                    "agreement": percent(self._agreement()) if choices is self.dynamic else NOTHING,
                }
                for name, choices in {"static": self.static, "dynamic": self.dynamic}.items()
            ]
        )

    def notes(self) -> list[str]:
        """What the table's numbers mean, in sentences."""
        counted = "tokens: of the questions, special tokens not counted."
        if self.dynamic is None:
            return [counted]
        notes = [f"{counted} agreement: how often the answer is that of static tokenization, right or wrong."]
        return notes if self.static is not None else [*notes, TOO_LONG]

    def figures(self) -> dict[str, float | int | None]:
        """The same as one flat object."""
        static_tokens, tokens = _count_tokens(self.asked)
        figures: dict[str, float | int | None] = {
            "questions": len(self.questions),
            "static_tokens": static_tokens,
            "tokens": tokens,
            "accuracy_percent": self._accuracy(self.asked),
        }
        if self.dynamic is None:
            return figures
        figures["reduction_percent"] = reduction_percent(static_tokens, tokens)
        if self.static is not None:
            figures["static_accuracy_percent"] = self._accuracy(self.static)
            figures["agreement_percent"] = self._agreement()
        return figures

    def lines(self, tokenizer: ByteLevelTokenizer) -> Iterator[dict[str, Any]]:
        """One object per question, for JSON lines; `tokens` are those of the question as read."""
        for number, (question, choice) in enumerate(zip(self.questions, self.asked, strict=True)):
            line = {
                "question": question.question,
                "options": list(question.options),
                "answer": question.answer,
                "n_static": choice.n_static,
                "n_tokens": choice.n_tokens,
                "tokens": choice.prompt_tokens.strings(tokenizer),
                "choice": choice.best,
                "scores": list(choice.scores),
            }
            if self.dynamic is not None and self.static is not None:
                line |= {"static_choice": self.static[number].best, "static_scores": list(self.static[number].scores)}
            yield line

    def _accuracy(self, choices: Sequence[Choice] | None) -> float | None:
        if choices is None:
            return None
        right = [choice.best == of.answer for choice, of in zip(choices, self.questions, strict=True)]
        return 100 * sum(right) / len(right)

    def _agreement(self) -> float | None:
        if self.static is None or self.dynamic is None:
            return None
        same = [one.best == other.best for one, other in zip(self.static, self.dynamic, strict=True)]
        return 100 * sum(same) / len(same)


def _count_tokens(found: Sequence[ScoredText] | Sequence[Choice]) -> tuple[int, int]:
    """Numbers of the prompts' tokens, static and after merging."""
    return sum(one.n_static for one in found), sum(one.n_tokens for one in found)


def score_rows(
    decoder: DynamicDecoder,
    rows: Sequence[Pair] | Sequence[Question],
    reading: Reading,
    *,
    style: Style,
    on_progress: Callable[[int], None],
) -> TextScores | AnswerScores:
    """Scores rows after merged prompts, if the options turn merging on, and after static ones.

    Args:
      decoder: the model.
      rows: of one kind.
      reading: how prompts are read.
      style: how questions are asked.
      on_progress: called with the number of texts scored, twice per text if prompts are merged.

    Raises:
      DyntokError: what `DynamicDecoder.score` and `choose` raise.
    """
    questions = [row for row in rows if isinstance(row, Question)]
    if questions:
        texts, options = [row.question for row in questions], [row.options for row in questions]
        choose = partial(decoder.choose, texts, options, style=style, on_progress=on_progress)
        return AnswerScores(questions, *_merged_and_static(choose, reading))
    pairs = [row for row in rows if isinstance(row, Pair)]
    prompts, continuations = [row.prompt for row in pairs], [row.continuation for row in pairs]
    score = partial(decoder.score, prompts, continuations, on_progress=on_progress)
    return TextScores(pairs, *_merged_and_static(score, reading))


def _merged_and_static(
    score: Callable[..., list[Scored]], reading: Reading
) -> tuple[list[Scored] | None, list[Scored] | None]:
    """The scores after merged prompts, or None if prompts are not merged, and after static ones."""
    merged = static = None
    if not reading.merging.is_static:
        merged = score(**vars(reading))
    try:
        static = score(**vars(replace(reading, merging=STATIC)))
    except TooLongError:
        if merged is None:
            raise  # if it fits only when merged, it is not the user's fault
    return merged, static


def _total(texts: Sequence[ScoredText]) -> float:
    return sum(text.total for text in texts)


def _agreement(static: Sequence[ScoredText], dynamic: Sequence[ScoredText]) -> float | None:
    """How often the most probable next token is the same, in %; None if there are no tokens."""
    pairs = zip(static, dynamic, strict=True)
    same = np.concatenate([one.greedy_O == other.greedy_O for one, other in pairs])
    return 100 * float(same.mean()) if len(same) else None
