"""How long commands take from their start: fresh processes, with no compiled programs kept and with those of the first.

    python -m experiments.bench_startup --json bench_startup.json

Every figure is the wall time of a process of its own. The first run of a command finds an empty folder of compiled
programs, the second and later ones what the first has left there; the best of `--repeats` is told. `generate` is timed
to the first character it prints and to its end. Packaged models are built before the clock starts.

Two CPU cores: 2 minutes. Expect `import dyntok_jax` and `--help` below 1 s, the first text of `generate` after 8 to 15
seconds the first time and 4 to 6 later, `encode` of one short file after 5 to 8 later.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from dyntok_jax.errors import InputError
from dyntok_jax.files import find_model
from experiments.shared import Figures, report, run_script

COMMANDS = ("encode", "generate", "score", "show", "convert", "train-hypernet", "build-vocab", "build-index")
DYNTOK = ("-c", "import sys; from dyntok_jax.cli import main; sys.exit(main())")
"""`dyntok`, by the interpreter that runs this."""
PROMPT = "Gravity is"
SHORT_TEXT = "All human beings are born free and equal in dignity and rights.\n"


@dataclass(frozen=True)
class Options:
    """Times how long commands take to start.

    Attributes:
      json: where to write the figures, as one flat object.
      table: where to write the table as Markdown.
      encoder: what `encode` reads with.
      decoder: what `generate` and `score` read with.
      repeats: how often each is run with its programs kept; the best counts.
      max_tokens: tokens to generate.
    """

    json: Path | None = None
    table: Path | None = None
    encoder: str = "e5-small"
    decoder: str = "smollm2"
    repeats: int = 3
    max_tokens: int = 24


@dataclass(frozen=True)
class Started:
    """Seconds from a process's start to the first character it prints, and to its end."""

    first_text: float
    end: float


def run(options: Options, console: Console) -> Figures:
    """Times everything."""
    figures: Figures = {}
    for model in (options.encoder, options.decoder):
        find_model(model)
    quick = {
        "python": ("-c", "pass"),
        "import": ("-c", "import dyntok_jax"),
        "help": (*DYNTOK, "--help"),
        **{f"{name.replace('-', '_')}_help": (*DYNTOK, name, "--help") for name in COMMANDS},
    }
    for name, arguments in track(quick.items(), "Without a model", console=console):
        figures[f"{name}_seconds"] = best(options.repeats, arguments, {}).end
    with TemporaryDirectory() as folder:
        text = Path(folder) / "short.txt"
        text.write_text(SHORT_TEXT, encoding="utf-8")
        kept = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        commands = {
            "generate": ("generate", PROMPT, "--max-tokens", str(options.max_tokens), "--model", options.decoder),
            "score": ("score", PROMPT, " a force", "--model", options.decoder),
            "encode": ("encode", str(text), "--model", options.encoder, "--output", f"{folder}/output"),
        }
        for name, arguments in track(commands.items(), "With one", console=console):
            first = best(1, (*DYNTOK, *arguments), kept)
            later = best(options.repeats, (*DYNTOK, *arguments), kept)
            for when, started in (("first", first), ("later", later)):
                figures[f"{name}_first_text_{when}_seconds"] = started.first_text
                figures[f"{name}_{when}_seconds"] = started.end
    return report(figures, table_of(figures), options, console)


def best(times: int, arguments: Sequence[str], environment: dict[str, str]) -> Started:
    """The shortest of some runs, each figure on its own."""
    runs = [start(arguments, environment) for _ in range(times)]
    return Started(min(run.first_text for run in runs), min(run.end for run in runs))


def start(arguments: Sequence[str], environment: dict[str, str]) -> Started:
    """Runs a process to its end.

    Raises:
      InputError: it failed; with the last line that it printed.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        first_text = time.perf_counter() - begun
        process.stdout.read()
        *_, last = process.stderr.read().decode(errors="replace").strip().split("\n")
    if process.returncode:
        raise InputError(f"`{' '.join(arguments)}` failed: {last}")
    return Started(first_text, time.perf_counter() - begun)


def table_of(figures: Figures) -> str:
    """The figures as Markdown."""
    lines = ["| seconds from a process's start | first time | later |", "| :-- | --: | --: |"]
    for name in ("python", "import", "help", *(f"{name.replace('-', '_')}_help" for name in COMMANDS)):
        lines.append(f"| {name.replace('_', ' ')} | | {figures[f'{name}_seconds']:.2f} |")
    for name in ("generate_first_text", "generate", "score", "encode"):
        first, later = (figures[f"{name}_{when}_seconds"] for when in ("first", "later"))
        lines.append(f"| {name.replace('_', ' ')} | {first:.2f} | {later:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(run, Options, __doc__)
