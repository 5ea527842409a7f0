"""Sums in merged prompts: do numbers survive, with their digits protected and without?

    python -m experiments.arithmetic --json arithmetic.json --table arithmetic.md

200 sums of two numbers of 2 to 4 digits, each after three solved ones, are answered greedily. Shown are how many
answers are right, and how many are static tokenization's, for prompts that are merged fully with digits protected,
which is the library's default, and without.

Two CPU cores, busy with other work, SmolLM2: some 6 minutes. Expect the protected answers to be static's, all of them.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from dyntok_jax import Merging
from dyntok_jax.options import AUTO, DEFAULT_DECODER
from experiments.shared import STATIC, Figures, PromptSetting, decoders_by_method, report, run_script, share_settings

SOLVED = ((12, 7), (345, 86), (4096, 1023))
"""Sums that are solved before each question."""
MAX_TOKENS = 8
PROTECTED = {"protected": ("digits", "digits protected"), "unprotected": (None, "digits merged")}


@dataclass(frozen=True)
class Options:
    """Sums in merged prompts.

    Attributes:
      sums: how many.
      seed: of the numbers.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, beside FVT; by default the one that comes with the model.
      language: code of the prompts' language, for a multilingual hypernetwork.
      batch_size: prompts a batch.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    sums: int = 200
    seed: int = 0
    model: str = DEFAULT_DECODER
    hypernet: str | None = AUTO
    language: str = "en"
    batch_size: int = 8
    json: Path | None = None
    table: Path | None = None


def random_sums(count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of numbers of 2 to 4 digits."""
    draw = random.Random(seed)

    def number() -> int:
        return draw.randrange(10, 10 ** draw.randint(2, 4))

    return [(number(), number()) for _ in range(count)]


def prompt_of(numbers: tuple[int, int]) -> str:
    """The solved sums, and one to solve."""
    solved = "".join(f"{one} + {other} = {one + other}\n" for one, other in SOLVED)
    return f"{solved}{numbers[0]} + {numbers[1]} ="


def settings_of(options: Options) -> list[PromptSetting]:
    """Static, and full merging by each method with digits protected and without."""
    static, *merged = share_settings(decoders_by_method(options.model, options.hypernet), (100,), Merging())
    found = [static]
    for setting in merged:
        for suffix, (protect, title) in PROTECTED.items():
            name, merging = f"{setting.name}_{suffix}", replace(setting.merging, protect=protect)
            found.append(replace(setting, name=name, title=f"{setting.title}, {title}", merging=merging))
    return found


def markdown_table(figures: Figures, settings: Sequence[PromptSetting]) -> str:
    """A row a setting."""
    lines = ["| setting | right | as static | tokens saved |", "|:--|--:|--:|--:|"]
    for setting in settings:
        found = [figures[f"{setting.name}_{what}_percent"] for what in ("right", "as_static", "reduction")]
        lines.append(f"| {setting.title} | {' | '.join(f'{value:.1f} %' for value in found)} |")
    return "\n".join(lines) + "\n"


def run(options: Options, console: Console) -> Figures:
    """Measures, writes what was asked for, and returns the figures."""
    started = time.perf_counter()
    sums, settings = random_sums(options.sums, options.seed), settings_of(options)
    figures: Figures = {"model": Path(options.model).name, "sums": len(sums)}
    of_static: list[str] = []
    for setting in track(settings, "answering", console=console, transient=True):
        texts = setting.decoder.generate(
            [prompt_of(numbers) for numbers in sums],
            merging=setting.merging,
            language=setting.language(options.language),
            max_tokens=MAX_TOKENS,
            stop=["\n"],
            batch_size=options.batch_size,
        )
        answers = [text.text.strip() for text in texts]
        of_static = answers if setting.name == STATIC else of_static
        n_right = sum(answer == str(one + other) for answer, (one, other) in zip(answers, sums, strict=True))
        n_alike = sum(answer == other for answer, other in zip(answers, of_static, strict=True))
        n_tokens, n_static = (sum(getattr(text, name) for text in texts) for name in ("n_tokens", "n_static"))
        figures |= {
            f"{setting.name}_right_percent": 100 * n_right / len(sums),
            f"{setting.name}_as_static_percent": 100 * n_alike / len(sums),
            f"{setting.name}_reduction_percent": 100 * (1 - n_tokens / n_static),
        }
    figures["run_seconds"] = time.perf_counter() - started
    return report(figures, markdown_table(figures, settings), options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
