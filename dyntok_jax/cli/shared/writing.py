"""Texts that a decoder writes, timed without compilation; their table, titles and JSON lines."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from dyntok_jax.cli.shared.compile_clock import CompileClock
from dyntok_jax.cli.shared.decoder_options import Reading
from dyntok_jax.cli.shared.figures import figures_table, percent, rate, reduction_percent
from dyntok_jax.decoding import (
    GREEDY,
    DynamicDecoder,
    GeneratedText,
    Prompt,
    SamplingConfig,
    VocabularyChoice,
)
from dyntok_jax.options import FULL
from dyntok_jax.text import ByteLevelTokenizer, Message

TITLE_CHARACTERS = 60
PROBE = "1"


@dataclass(frozen=True)
class Writing:
    """Generated texts, and how long they took.

    Attributes:
      texts: one per prompt.
      is_merged: whether prompts were merged, rather than static.
      seconds_to_first: from the prompts to the first token of the first batch, without compilation.
      seconds: from the prompts to the last text's end, without compilation.
      compile_seconds: how long JAX compiled.
    """

    texts: Sequence[GeneratedText]
    is_merged: bool
    seconds_to_first: float
    seconds: float
    compile_seconds: float

    @property
    def static_tokens(self) -> int:
        """Static tokens of the prompts, special tokens not counted."""
        return sum(text.n_static for text in self.texts)

    @property
    def tokens(self) -> int:
        """Tokens of the prompts after merging, counted the same way."""
        return sum(text.n_tokens for text in self.texts)

    @property
    def written(self) -> int:
        """Tokens of the texts."""
        return sum(len(text.ids) for text in self.texts)

    @property
    def new(self) -> int | None:
        """Tokens of the texts that are not in the model's own vocabulary; None if the texts are written in that."""
        counts = [text.n_new for text in self.texts if text.n_new is not None]
        return sum(counts) if counts else None

    @property
    def characters(self) -> int:
        """Characters of the texts."""
        return sum(len(text.text) for text in self.texts)

    def notes(self) -> list[str]:
        """What the table's numbers mean, in sentences."""
        new = [] if self.new is None else ["new: tokens written that the model's own vocabulary does not have."]
        counted = "tokens: the prompt to the model's own tokenizer"
        if self.is_merged:
            counted = "static: the prompt to the model's own tokenizer; tokens: after merging"
        return [
            f"{counted}; special tokens not counted.",
            "1st token, tokens/s, chars/s (characters): measured from the prompt's text; "
            f"compiling ({self.compile_seconds:.1f} s, once) not counted.",
            *new,
        ]


def write_texts(
    decoder: DynamicDecoder,
    prompts: Sequence[Prompt],
    reading: Reading,
    *,
    max_tokens: int,
    sampling: SamplingConfig = GREEDY,
    vocabulary: VocabularyChoice = None,
    **options: Any,
) -> Writing:
    """Generates, and measures the time without compilation.

    Args:
      decoder: the model.
      prompts: plain texts or chats.
      reading: how prompts are read.
      max_tokens: the most tokens per text.
      sampling: how tokens are chosen.
      vocabulary: to write in; None for the model's own.
      **options: more of `DynamicDecoder.generate`.

    Raises:
      DyntokError: what `DynamicDecoder.generate` raises.
    """
    with CompileClock() as clock:
        writing = {"sampling": sampling, "vocabulary": vocabulary}
        _warm_up(decoder, prompts, reading, max_tokens, writing)
        compiled, started = clock.seconds, time.perf_counter()
        texts = decoder.generate(prompts, max_tokens=max_tokens, **writing, **options, **vars(reading))
        seconds, first = time.perf_counter() - started, min(text.seconds_to_first for text in texts)
        return Writing(
            texts=texts,
            is_merged=not reading.merging.is_static,
            seconds_to_first=first - (clock.seconds_until(started + first) - compiled),
            seconds=seconds - (clock.seconds - compiled),
            compile_seconds=clock.seconds,
        )


def _warm_up(
    decoder: DynamicDecoder,
    prompts: Sequence[Prompt],
    reading: Reading,
    max_tokens: int,
    writing: dict[str, Any],
) -> None:
    """Runs the programs that the prompts will run: the first run costs more than compiling, up to a second.

    A single prompt is replaced by a tiny one with the same total length, which the same program reads.
    """
    room = int(decoder.read(prompts, **vars(reading)).n_tokens.max()) + max_tokens
    if len(prompts) > 1 or room > decoder.config.max_positions:  # too long: the prompt itself should raise
        return
    alike = {"goal": None if reading.merging.is_static else FULL, "language": reading.language}
    n_probe = int(decoder.read([PROBE], **alike).n_tokens[0])
    next(decoder.stream(PROBE, max_tokens=max(1, room - n_probe), **writing, **alike), None)


def writing_table(run: Writing) -> Table:
    """What was read, what was written, and how fast."""
    row = {} if len(run.texts) == 1 else {"texts": f"{len(run.texts)}"}
    row |= {"static": f"{run.static_tokens}"} if run.is_merged else {}
    row |= {"tokens": f"{run.tokens}"}
    row |= {"reduction": percent(reduction_percent(run.static_tokens, run.tokens))} if run.is_merged else {}
    row |= {"1st token": f"{run.seconds_to_first:.2f} s", "written": f"{run.written}"}
    row |= {} if run.new is None else {"new": f"{run.new}"}
    row |= {
        "tokens/s": rate(run.written / run.seconds),
        "chars/s": rate(run.characters / run.seconds),
    }
    return figures_table([row])


def writing_figures(run: Writing) -> dict[str, float | int | None]:
    """The same as one flat object."""
    reduction = {"reduction_percent": reduction_percent(run.static_tokens, run.tokens)} if run.is_merged else {}
    new = {} if run.new is None else {"new_tokens": run.new}
    return {
        "texts": len(run.texts),
        "static_tokens": run.static_tokens,
        "tokens": run.tokens,
        **reduction,
        "seconds_to_first_token": run.seconds_to_first,
        "seconds": run.seconds,
        "written_tokens": run.written,
        "written_characters": run.characters,
        "tokens_per_second": run.written / run.seconds,
        "characters_per_second": run.characters / run.seconds,
        "compile_seconds": run.compile_seconds,
    } | new


def text_rows(
    tokenizer: ByteLevelTokenizer, prompts: Sequence[str], seeds: Sequence[int], texts: Sequence[GeneratedText]
) -> Iterator[dict[str, Any]]:
    """One object per text, for JSON lines.

    `tokens` are those of the prompt after merging; `uncounted` are the positions of special tokens in it, which
    neither `n_static` nor `n_tokens` counts. `n_written` and `n_new` are of texts in a large vocabulary: their tokens,
    and those that are new entries.
    """
    for prompt, seed, text in zip(prompts, seeds, texts, strict=True):
        yield {
            "prompt": prompt,
            "seed": seed,
            "text": text.text,
            "finish": text.finish,
            "n_static": text.n_static,
            "n_tokens": text.n_tokens,
            "tokens": text.prompt_tokens.strings(tokenizer),
            "uncounted": (~text.prompt_tokens.is_counted_T).nonzero()[0].tolist(),
        } | ({} if text.n_new is None else {"n_written": len(text.ids), "n_new": text.n_new})


def titled(prompts: Sequence[str], seeds: Sequence[int], texts: Sequence[GeneratedText]) -> str:
    """Several texts to read, each under a title with its prompt and seed."""
    parts = []
    for prompt, seed, text in zip(prompts, seeds, texts, strict=True):
        title = " ".join(prompt.split())
        title = title if len(title) <= TITLE_CHARACTERS else f"{title[: TITLE_CHARACTERS - 1]}…"
        parts.append(f"── {title} · seed {seed} ──\n{text.text}\n")
    return "\n".join(parts)


def as_chats(prompts: Sequence[str], system: str | None) -> list[list[Message]]:
    """Each prompt as a user's message, after the system's message if there is one."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [[*before, {"role": "user", "content": prompt}] for prompt in prompts]
