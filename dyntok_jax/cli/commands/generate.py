"""`dyntok generate`: continues a prompt, and reports how much merging saved, if asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import (
    MergingOptions,
    ModelOptions,
    OptionalPath,
    VocabularyOptions,
    arg,
    flattened,
    print_beside_text,
    print_out,
    progress_bar,
    read_prompts,
    text_out,
    write_json,
    write_json_lines,
)
from dyntok_jax.errors import InputError
from dyntok_jax.storage import check_writable

Number = Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="")]
N = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True)
class Generate:
    """Continues a prompt, read by the model's own tokenizer or, with --share or another goal, merged.

    Attributes:
      prompt: the text to continue, or - for standard input. Left out: an example.
      file: file of prompts, one a line (.gz too), or - for standard input.
      chat: a prompt is a user's message to the model; the chat template is added.
      system: with --chat, the system message.
      static: read prompts by the model's own tokenizer; the default.
      max_tokens: the most tokens a text.
      stop: a string that ends a text; the text does not include it. May be given several times.
      temperature: scores are divided by it; 0 takes the most probable token each time.
      top_k: sample from this many of the most probable tokens only.
      top_p: sample from the fewest tokens whose probabilities together reach this.
      min_p: sample only from tokens with at least this share of the best one's probability.
      repetition_penalty: above 1, subwords of the prompt and the text so far become less probable.
      seed: of sampling; the same seed gives the same text.
      samples: texts for each prompt, with consecutive seeds.
      no_stream: print the text when it is complete; a little faster.
      output: file for JSON lines, one for each text; several texts are then not printed.
      json: file for the table's figures.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok generate                                   an example, with the packaged smollm2
  dyntok generate "The history of tea begins in" --max-tokens 60
  dyntok generate --chat "Why do fireflies glow?" --system "Answer in one sentence." --stop "!"
  dyntok generate "Once upon a time" --temperature 0.8 --top-p 0.95 --samples 3
  cat article.txt | dyntok generate - --share 50    standard input, merged: half of the possible reduction
  dyntok generate --file prompts.txt --output answers.jsonl
  dyntok generate --file code.txt --share 100 --prompt-vocab      the prompt's merged tokens are candidates, too
  dyntok generate "Freedom of" --vocab vocab --table table --index index     in a far larger vocabulary
"""

    prompt: tyro.conf.Positional[Annotated[str | None, arg(metavar="[PROMPT]", help_behavior_hint="")]] = None
    file: OptionalPath = None
    chat: bool = False
    system: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    static: bool = False
    max_tokens: N = 128
    stop: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], arg(metavar="TEXT", help_behavior_hint="")]] = ()
    temperature: Annotated[float, arg(metavar="NUMBER")] = 0.0
    top_k: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    top_p: Number = None
    min_p: Number = None
    repetition_penalty: Annotated[float, arg(metavar="NUMBER")] = 1.0
    seed: N = 0
    samples: N = 1
    no_stream: bool = False
    output: OptionalPath = None
    json: OptionalPath = None
    large: Annotated[VocabularyOptions, flattened] = field(default_factory=VocabularyOptions)
    merging: Annotated[MergingOptions, flattened] = field(default_factory=MergingOptions)
    source: Annotated[ModelOptions, flattened] = field(default_factory=ModelOptions)

    def run(self) -> None:
        """Reads, generates, prints, writes."""
        self._check()
        prompts, notes = read_prompts(self.prompt, self.file)
        for path in (self.output, self.json):
            if path is not None:
                check_writable(Path(path))

        from dyntok_jax.cli.shared import (
            as_chats,
            text_rows,
            titled,
            write_texts,
            writing_figures,
            writing_table,
        )
        from dyntok_jax.decoding import SamplingConfig

        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        sampling = SamplingConfig(**{name: getattr(self, name) for name in names})
        decoder = self.source.load(is_merging=self.merging.is_merging)
        vocabulary = self.large.load(decoder)
        reading = self.merging.reading(self.source.language)
        prompts = [prompt for prompt in prompts for _ in range(self.samples)]
        seeds = [self.seed + sample for sample in range(self.samples)] * (len(prompts) // self.samples)
        is_one = len(prompts) == 1
        streams, is_shown = is_one and not self.no_stream, is_one or self.output is None
        with text_out() as show:
            with progress_bar("Generating", 0 if streams else len(prompts)) as advance:
                run = write_texts(
                    decoder,
                    as_chats(prompts, self.system) if self.chat else prompts,
                    reading,
                    max_tokens=self.max_tokens,
                    stop=self.stop,
                    sampling=sampling,
                    vocabulary=vocabulary,
                    seed=seeds,
                    on_text=(lambda _, piece: show(piece)) if streams else None,
                    on_progress=advance,
                )
            if is_shown and not streams:
                show(run.texts[0].text if is_one else titled(prompts, seeds, run.texts))
        if self.output is not None:
            write_json_lines(Path(self.output), text_rows(decoder.tokenizer, prompts, seeds, run.texts))
            notes.append(f"Written: {self.output}")
        if self.json is not None:
            write_json(Path(self.json), writing_figures(run))
        (print_beside_text if is_shown else print_out)(writing_table(run), *run.notes(), *notes)

    def _check(self) -> None:
        """Raises InputError for options that contradict each other, before anything is loaded."""
        if self.system is not None and not self.chat:
            raise InputError("--system is the system message of a chat: give --chat too.")
        if self.static and self.merging.given:
            raise InputError(f"--static merges nothing: leave out {', '.join(self.merging.given)}.")
        if not self.static:
            self.merging.check(self.source)
        self.large.check(is_merging=self.merging.is_merging)
        if self.samples < 1:
            raise InputError(f"--samples must be 1 or more, got {self.samples}.")
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                f"At temperature 0 all {self.samples} samples would be the same text: give --temperature, such as 0.8."
            )
