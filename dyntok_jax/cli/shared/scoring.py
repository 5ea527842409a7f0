"""Texts and answers scored behind prompts that were read statically and dynamically, and how both are told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from rich.table import Table

from dyntok_jax.cli.shared.decoder_options import STATIC
from dyntok_jax.cli.shared.figures import NOTHING, figures_table, percent, reduction_percent
from dyntok_jax.cli.shared.scored_rows import Pair, Question
from dyntok_jax.decoding import Choice, DynamicDecoder, ScoredText
from dyntok_jax.errors import TooLongError
from dyntok_jax.options import Style
from dyntok_jax.text import ByteLevelTokenizer

TOO_LONG = "A prompt fits the model only when merged, so static tokenization was left out."


@dataclass(frozen=True)
class TextScores:
    """Texts behind prompts.

    Attributes:
      pairs: what was asked.
      dynamic: of each, behind the merged prompt.
      static: of each, behind the model's own tokens; None where a prompt does not fit the model as such.
    """

    pairs: Sequence[Pair]
    dynamic: Sequence[ScoredText]
    static: Sequence[ScoredText] | None

    def table(self) -> Table:
        """A line for static and one for dynamic tokenization."""
        static_tokens, tokens = _count_tokens(self.dynamic)
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
        continuation_tokens = sum(len(text.ids) for text in self.dynamic)
        notes = [
            "tokens: of the prompts, special tokens not counted. What follows is the same tokens both times: "
            f"{continuation_tokens} ({self._n_bytes()} bytes).",
            "log-prob: natural logarithm, summed. agreement: how often the most probable next token is the same.",
        ]
        return notes if self.static is not None else [*notes, TOO_LONG]

    def figures(self) -> dict[str, float | int]:
        """The same as one flat object."""
        static_tokens, tokens = _count_tokens(self.dynamic)
        figures = {
            "texts": len(self.pairs),
            "bytes": self._n_bytes(),
            "continuation_tokens": sum(len(text.ids) for text in self.dynamic),
            "static_tokens": static_tokens,
            "tokens": tokens,
            "reduction_percent": reduction_percent(static_tokens, tokens),
            "log_probability": _total(self.dynamic),
            "bits_per_byte": self._bits_per_byte(self.dynamic),
        }
        if self.static is not None:
            figures["static_log_probability"] = _total(self.static)
            figures["static_bits_per_byte"] = self._bits_per_byte(self.static)
            figures["agreement_percent"] = self._agreement()
        return figures

    def lines(self, tokenizer: ByteLevelTokenizer) -> Iterator[dict[str, Any]]:
        """One object a text, for JSON lines; `tokens` are those of the merged prompt, special tokens included."""
        for number, (pair, text) in enumerate(zip(self.pairs, self.dynamic, strict=True)):
            line = {
                "prompt": pair.prompt,
                "continuation": pair.continuation,
                "n_static": text.n_static,
                "n_tokens": text.n_tokens,
                "log_probability": text.total,
                "bits_per_byte": text.bits_per_byte,
                "tokens": text.prompt_tokens.strings(tokenizer),
            }
            if self.static is not None:
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
        return None if self.static is None else _agreement(self.static, self.dynamic)


@dataclass(frozen=True)
class AnswerScores:
    """Answers to multiple-choice questions.

    Attributes:
      questions: what was asked.
      dynamic: the answers to merged questions.
      static: those to the model's own tokens; None where a question does not fit the model as such.
    """

    questions: Sequence[Question]
    dynamic: Sequence[Choice]
    static: Sequence[Choice] | None

    def table(self) -> Table:
        """A line for static and one for dynamic tokenization."""
        static_tokens, tokens = _count_tokens(self.dynamic)
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
        notes = [
            "tokens: of the questions, special tokens not counted. agreement: how often the answer is that of static "
            "tokenization, right or wrong."
        ]
        return notes if self.static is not None else [*notes, TOO_LONG]

    def figures(self) -> dict[str, float | int]:
        """The same as one flat object."""
        static_tokens, tokens = _count_tokens(self.dynamic)
        figures = {
            "questions": len(self.questions),
            "static_tokens": static_tokens,
            "tokens": tokens,
            "reduction_percent": reduction_percent(static_tokens, tokens),
            "accuracy_percent": self._accuracy(self.dynamic),
        }
        if self.static is not None:
            figures["static_accuracy_percent"] = self._accuracy(self.static)
            figures["agreement_percent"] = self._agreement()
        return figures

    def lines(self, tokenizer: ByteLevelTokenizer) -> Iterator[dict[str, Any]]:
        """One object a question, for JSON lines; `tokens` are those of the merged question."""
        for number, (question, choice) in enumerate(zip(self.questions, self.dynamic, strict=True)):
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
            if self.static is not None:
                line |= {"static_choice": self.static[number].best, "static_scores": list(self.static[number].scores)}
            yield line

    def _accuracy(self, choices: Sequence[Choice] | None) -> float | None:
        if choices is None:
            return None
        right = [choice.best == of.answer for choice, of in zip(choices, self.questions, strict=True)]
        return 100 * sum(right) / len(right)

    def _agreement(self) -> float | None:
        if self.static is None:
            return None
        same = [one.best == other.best for one, other in zip(self.static, self.dynamic, strict=True)]
        return 100 * sum(same) / len(same)


def _count_tokens(found: Sequence[ScoredText] | Sequence[Choice]) -> tuple[int, int]:
    """Tokens of the prompts in static tokenization, and after merging."""
    return sum(one.n_static for one in found), sum(one.n_tokens for one in found)


def score_rows(
    decoder: DynamicDecoder,
    rows: Sequence[Pair] | Sequence[Question],
    reading: dict[str, Any],
    *,
    style: Style,
    on_progress: Callable[[int], None],
) -> TextScores | AnswerScores:
    """Scores rows twice: behind prompts read with these options, and behind the model's own tokens.

    Args:
      decoder: the model.
      rows: of one kind.
      reading: options of `DynamicDecoder.read`.
      style: how questions are asked.
      on_progress: called with the number of texts scored, twice a text.

    Raises:
      DyntokError: what `DynamicDecoder.score` and `choose` raise.
    """
    scored: list[Any] = []
    for options in (reading, reading | STATIC):
        try:
            scored.append(_score(decoder, rows, style, on_progress=on_progress, **options))
        except TooLongError:
            if not scored:
                raise
            scored.append(None)  # merging is what made it fit: no fault of the user's
    return (TextScores if isinstance(rows[0], Pair) else AnswerScores)(rows, *scored)


def _score(
    decoder: DynamicDecoder, rows: Sequence[Pair] | Sequence[Question], style: Style, **options: Any
) -> list[ScoredText] | list[Choice]:
    if isinstance(rows[0], Pair):
        return decoder.score([row.prompt for row in rows], [row.continuation for row in rows], **options)
    return decoder.choose([row.question for row in rows], [row.options for row in rows], style=style, **options)


def _total(texts: Sequence[ScoredText]) -> float:
    return sum(text.total for text in texts)


def _agreement(static: Sequence[ScoredText], dynamic: Sequence[ScoredText]) -> float | None:
    """How often the most probable next token is the same, in %; None where there was none."""
    pairs = zip(static, dynamic, strict=True)
    same = np.concatenate([one.greedy_O == other.greedy_O for one, other in pairs])
    return 100 * float(same.mean()) if len(same) else None
