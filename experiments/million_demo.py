"""From text to generation over a million tokens, on SmolLM2, in one command.

    python -m experiments.million_demo corpus/*.txt.gz --output million

Four commands in a row, each of which can be run alone: `dyntok build-vocab` grows the model's vocabulary on the text
(and on word lists, by default of 16 languages from the package `wordfreq`: `pip install wordfreq`), `embed-vocab` gives
each entry a row, `build-index` builds the index of these rows, `generate` continues a merged prompt with it. What the
output folder already holds is not made again. Two CPU cores: some six minutes and 5 GB of disk.
"""

import shlex
import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from dyntok_jax.cli import main as dyntok

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "tr", "el", "bg", "ar", "hi", "vi", "cs")


def demo(
    text: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path,
    size: int = 1_000_000,
    words: tuple[str, ...] = tuple(f"wordfreq:{language}" for language in LANGUAGES),
    model: str = "smollm2",
    hypernet: str = "none",
    prompt: str = "Freedom of thought means that",
    max_tokens: int = 48,
) -> None:
    """Runs the four commands.

    Args:
      text: files to grow the vocabulary on, one paragraph per line (.gz too).
      output: folder for vocabulary, table and index.
      size: number of entries; fewer if there is too little text.
      words: lists of words to grow on too.
      model: a packaged decoder, a folder or a Hub id.
      hypernet: what embeds prompts and new entries: a folder or Hub id; auto for the one that comes with the model;
        none for the mean of their subwords (FVT).
      prompt: to continue.
      max_tokens: of the continuation.
    """
    vocabulary, table, index = (str(output / name) for name in ("vocab", "table", "index"))
    chosen = ["--model", model]
    embedding = ["--hypernet", hypernet]
    merging = ["--share", "100", *embedding]
    listed = ["--words", *words] if words else []
    steps = [
        (vocabulary, ["build-vocab", *map(str, text), *chosen, "--size", str(size), "--output", vocabulary, *listed]),
        (table, ["embed-vocab", vocabulary, "--output", table, *embedding]),
        (index, ["build-index", table, "--output", index]),
        (None, ["generate", prompt, *chosen, "--vocab", vocabulary, "--table", table, "--index", index, *merging]),
    ]
    console = Console(stderr=True)
    output.mkdir(parents=True, exist_ok=True)
    for made, command in steps:
        if made is not None and Path(made).exists() and command[0] != "embed-vocab":  # which continues by itself
            console.print(f"[dim]{made} exists already.[/]", highlight=False, soft_wrap=True)
            continue
        if command[0] == "generate":
            command += ["--max-tokens", str(max_tokens)]
        console.print(f"[bold]dyntok {shlex.join(command)}[/]", highlight=False, soft_wrap=True)
        started = time.perf_counter()
        if status := dyntok(command):
            raise SystemExit(status)
        console.print(f"[dim]{time.perf_counter() - started:.0f} s[/]\n", highlight=False)


if __name__ == "__main__":
    tyro.cli(demo, description=__doc__)
