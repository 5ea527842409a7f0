"""`dyntok score`: how probable a text is after a prompt, and which answer is; if asked, also after a merged prompt."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from dyntok_jax.cli.shared import (
    MergingOptions,
    ModelOptions,
    OptionalPath,
    arg,
    flattened,
    print_out,
    progress_bar,
    read_rows,
    write_json,
    write_json_lines,
)
from dyntok_jax.storage import check_writable


@dataclass(frozen=True)
class Score:
    """Scores how probable texts are after prompts and, with --share or another goal, also after merged prompts.

    Attributes:
      prompt: the text before the one to score. Left out, and no file: an example.
      continuation: the text to score, with its leading space.
      file: JSON lines (.gz too) with the fields prompt and continuation, or question, options and answer (a number
        from 0, or a letter); or - for standard input.
      style: of questions: letters (options are listed and the most probable letter is the answer, as in MMLU), or full
        (the option with the fewest bits per byte).
      output: file for JSON lines, one for each row.
      json: file for the table's figures.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok score                                      three packaged sentences, the second half after the first
  dyntok score "The capital of Portugal is" " Lisbon."
  dyntok score --file halves.jsonl                  lines like {"prompt": "…", "continuation": " …"}
  dyntok score --file halves.jsonl --share 50       merged prompts, compared with static ones
  dyntok score --file quiz.jsonl --style full       lines like {"question": "…", "options": ["…", "…"], "answer": 0}
"""

    prompt: tyro.conf.Positional[Annotated[str | None, arg(metavar="[PROMPT]", help_behavior_hint="")]] = None
    continuation: tyro.conf.Positional[Annotated[str | None, arg(metavar="[CONTINUATION]", help_behavior_hint="")]] = (
        None
    )
    file: OptionalPath = None
    style: Literal["letters", "full"] = "letters"
    output: OptionalPath = None
    json: OptionalPath = None
    merging: Annotated[MergingOptions, flattened] = field(default_factory=MergingOptions)
    source: Annotated[ModelOptions, flattened] = field(default_factory=ModelOptions)

    def run(self) -> None:
        """Reads, scores, prints, writes."""
        self.merging.check(self.source)
        rows = read_rows(self.prompt, self.continuation, self.file)
        for path in (self.output, self.json):
            if path is not None:
                check_writable(Path(path))

        from dyntok_jax.cli.shared import score_rows

        decoder = self.source.load(is_merging=self.merging.is_merging)
        reading = self.merging.reading(self.source.language)
        runs = 2 if self.merging.is_merging else 1
        with progress_bar("Scoring", runs * sum(row.n_texts for row in rows)) as advance:
            scores = score_rows(decoder, rows, reading, style=self.style, on_progress=advance)
        notes = scores.notes()
        if self.output is not None:
            write_json_lines(Path(self.output), scores.lines(decoder.tokenizer))
            notes.append(f"Written: {self.output}")
        if self.json is not None:
            write_json(Path(self.json), scores.figures())
        print_out(scores.table(), *notes)
