"""How much a decoder keeps of a dynamically tokenized context: second halves of texts scored after their first halves.

    python -m experiments.retention --json retention.json --table retention.md --plot retention.png
    python -m experiments.retention --data lohelp_eval.jsonl.gz --limit 100 --json help.json --plot help.png

Texts are paragraphs of a language joined until they have `--min-static` tokens of the model's own tokenizer; one begins
at every `--stride`-th paragraph, so that they overlap. Each is cut at the segment border nearest to its middle. The
first half is tokenized and merged like any prompt (its last segment never merges), the second is always the model's own
tokens. The table shows the bits per byte of the second half, and how often the most probable token at its positions is
the same as after the static first half; and for comparison the floor, a second half after nothing but a line break. The
share kept of what the context is worth is (floor − dynamic) ÷ (floor − static), in bits. A share of 0 is the byte-level
form without merges, not quite static tokenization.

Two CPU cores, SmolLM2: some half an hour for the packaged sample in six languages. Expect, in bits per byte, static →
FVT at share 50 → share 100, floor: en 0.605 → 0.606 → 0.605, 0.723 (0.8 % fewer tokens at most), de 1.693 → 1.741 →
1.935, 1.890 (54.9 %), fr 1.366 → 1.424 → 1.493, 1.513 (37.2 %), el 1.580 → 1.656 → 1.698, 1.764 (71.9 %); with its
hypernetwork de 1.718 → 1.764, fr 1.396 → 1.424, el 1.640 → 1.677.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from dyntok_jax import DynamicDecoder, Merging, ScoredText, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.errors import InputError
from dyntok_jax.options import AUTO, DEFAULT_DECODER, Boundary
from dyntok_jax.text import TextEncoder, read_aligned
from experiments.shared import STATIC, Setting, by_method, decoders_by_method, progress_bar, report, run_script

FLOOR = "floor"
NO_CONTEXT = "\n"
"""What precedes a second half alone: something must, and not every model has a beginning-of-text token."""
PARAGRAPH_BREAK = "\n\n"
Halves = list[tuple[str, str]]


@dataclass(frozen=True)
class Options:
    """How much a decoder keeps of a context with fewer and fewer tokens.

    Attributes:
      data: `udhr` (the packaged sample) or a file of aligned JSON lines (.jsonl, .jsonl.gz).
      languages: which languages.
      limit: the most paragraphs per language, from the first on.
      min_static: the least number of static tokens per text.
      stride: paragraphs from the beginning of one text to that of the next.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id, plotted beside FVT; by default the one that comes with the model.
      boundary: what merging may not cross, and where texts may be cut.
      max_subwords: the longest token; None for no limit.
      shares: percentages of the maximum reduction.
      json: where the figures go.
      table: where the Markdown table goes.
      plot: where the plot goes (.png, .svg).
    """

    data: str = "udhr"
    languages: tuple[str, ...] = ("en", "de", "fr", "es", "el", "ru")
    limit: int | None = None
    min_static: int = 256
    stride: int = 2
    model: str = DEFAULT_DECODER
    hypernet: str | None = AUTO
    boundary: Boundary = "pretoken"
    max_subwords: int | None = 7
    shares: tuple[float, ...] = (0, 25, 50, 75, 100)
    json: Path | None = None
    table: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Results of one language's second halves in one setting.

    Attributes:
      bits_per_byte: of all second halves together.
      agreement: positions whose most probable token is that of static tokenization, in percent.
      reduction: 1 − tokens ÷ static tokens of the first halves, in percent; NaN for the floor, which has no first half.
      kept: share of what the static context is worth, in percent.
    """

    bits_per_byte: float
    agreement: float
    reduction: float
    kept: float


Outcomes = dict[tuple[Setting, str], Outcome]


def load_paragraphs(data: str, languages: Sequence[str], limit: int | None) -> dict[str, list[str]]:
    """The first paragraphs of each language."""
    texts = load_sample() if data == "udhr" else read_aligned(data)
    if missing := [language for language in languages if language not in texts]:
        raise InputError(f"{data} has no {', '.join(missing)}: its languages are {' '.join(texts)}.")
    return {language: [text for text in texts[language] if text is not None][:limit] for language in languages}


def join_paragraphs(paragraphs: Sequence[str], n_static: Sequence[int], minimum: int, stride: int) -> list[str]:
    """Texts of at least `minimum` tokens, one from each `stride`-th paragraph on; drops a rest that is too short."""
    total = np.cumsum([0, *n_static])
    texts = []
    for first in range(0, len(paragraphs), stride):
        end = int(np.searchsorted(total, total[first] + minimum))
        if end < len(total):
            texts.append(PARAGRAPH_BREAK.join(paragraphs[first:end]))
    return texts


def cut_in_half(texts: Sequence[str], encoder: TextEncoder, boundary: Boundary) -> Halves:
    """Cuts each text at the segment boundary nearest to the middle of its subwords; drops texts without one."""
    subwords = encoder.encode(texts, boundary=boundary, add_special_tokens=False)
    halves = []
    for text, begin, end in zip(texts, subwords.offsets[:-1], subwords.offsets[1:], strict=True):
        borders = np.flatnonzero(np.diff(subwords.segment_N[begin:end])) + 1
        if len(borders):
            nearest = borders[np.abs(borders - (end - begin) // 2).argmin()]
            at = int(subwords.span_N2[begin + nearest, 0])
            halves.append((text[:at], text[at:]))
    return halves


def load_halves(decoder: DynamicDecoder, options: Options) -> dict[str, Halves]:
    """The two halves of each language's texts.

    Raises:
      InputError: a language is missing, or has too little text.
    """
    halves = {}
    for language, paragraphs in load_paragraphs(options.data, options.languages, options.limit).items():
        n_static = decoder.text_encoder.encode_static(paragraphs, add_special_tokens=False).lengths
        texts = join_paragraphs(paragraphs, n_static.tolist(), options.min_static, options.stride)
        halves[language] = cut_in_half(texts, decoder.text_encoder, options.boundary)
        if not halves[language]:
            raise InputError(
                f"{options.data} has no text of {options.min_static} tokens in {language} that can be cut between "
                "segments: use more paragraphs, shorter texts or another boundary."
            )
    return halves


def outcome(scored: Sequence[ScoredText], static: Sequence[ScoredText], floor: Sequence[ScoredText]) -> Outcome:
    """Results of scored second halves, compared with those after a static first half and after none."""
    bits, bits_static, bits_floor = (
        -sum(text.total for text in texts) / np.log(2) for texts in (scored, static, floor)
    )
    n_bytes = sum(len(text.text.encode()) for text in static)
    is_same_N = np.concatenate([one.greedy_O == other.greedy_O for one, other in zip(scored, static, strict=True)])
    n_tokens, n_static = (sum(int(t.prompt_tokens.is_counted_T.sum()) for t in texts) for texts in (scored, static))
    return Outcome(
        bits_per_byte=float(bits / n_bytes),
        agreement=100 * float(is_same_N.mean()),
        reduction=100 * (1 - n_tokens / n_static) if scored is not floor else float("nan"),
        kept=100 * float((bits_floor - bits) / (bits_floor - bits_static)),
    )


def measure(
    decoders: dict[str, DynamicDecoder],
    halves: dict[str, Halves],
    settings: Sequence[Setting],
    options: Options,
    on_progress: Callable[[int], None],
) -> Outcomes:
    """Scores every language's second halves in every setting."""
    outcomes: Outcomes = {}
    for language, of_language in halves.items():
        first, second = zip(*of_language, strict=True)

        def score(setting: Setting, language=language, first=first, second=second) -> list[ScoredText]:
            decoder = decoders.get(setting.method) or next(iter(decoders.values()))
            language = language if decoder.embedder.languages and setting.share is not None else None
            return decoder.score(
                first if setting.method != FLOOR else [NO_CONTEXT] * len(second),
                second,
                merging=Merging(
                    None if setting.share is None else Share(setting.share),
                    boundary=options.boundary,
                    max_subwords=options.max_subwords,
                ),
                language=language,
                on_progress=on_progress,
            )

        static, floor = score(Setting(STATIC)), score(Setting(FLOOR))
        known = {Setting(STATIC): static, Setting(FLOOR): floor}
        for setting in settings:
            outcomes[setting, language] = outcome(known.get(setting) or score(setting), static, floor)
    return outcomes


def flat_figures(outcomes: Outcomes, halves: dict[str, Halves]) -> dict[str, float | int]:
    """All figures as one flat object, units in the names."""
    figures: dict[str, float | int] = {}
    for language, of_language in halves.items():
        figures[f"texts_{language}"] = len(of_language)
        figures[f"second_halves_bytes_{language}"] = sum(len(second.encode()) for _, second in of_language)
    for (setting, language), found in outcomes.items():
        figures[f"{setting.name}_bits_per_byte_{language}"] = round(found.bits_per_byte, 5)
        figures[f"{setting.name}_agreement_percent_{language}"] = round(found.agreement, 3)
        if setting.method != FLOOR:
            figures[f"{setting.name}_reduction_percent_{language}"] = round(found.reduction, 3)
            figures[f"{setting.name}_kept_percent_{language}"] = round(found.kept, 3)
    return figures


def markdown_table(outcomes: Outcomes, settings: Sequence[Setting], halves: dict[str, Halves]) -> str:
    """One table per method, three rows per language: bits per byte and reduction, share kept, agreement."""
    lines = [
        "Bits a byte of second halves (reduction of the first halves in tokens, %), the share kept of what the context "
        "is worth, agreement of the most probable token with static tokenization."
    ]
    for method, columns in by_method(settings):
        shares = " | ".join(f"share {column.share:g} %" for column in columns)
        lines += ["", f"| {method} | texts | static | {shares} | floor |", "|:--|" + "--:|" * (len(columns) + 3)]
        for language, of_language in halves.items():
            static, floor = outcomes[Setting(STATIC), language], outcomes[Setting(FLOOR), language]
            found = [outcomes[column, language] for column in columns]
            cells = " | ".join(f"{one.bits_per_byte:.3f} ({one.reduction:.1f})" for one in found)
            bits = f"{static.bits_per_byte:.3f} | {cells} | {floor.bits_per_byte:.3f}"
            lines.append(f"| **{language}**, bits a byte | {len(of_language)} | {bits} |")
            lines.append(f"| … kept | | 100 % | {' | '.join(f'{one.kept:.1f} %' for one in found)} | 0 % |")
            agreements = " | ".join(f"{one.agreement:.1f} %" for one in found)
            lines.append(f"| … agreement | | 100 % | {agreements} | {floor.agreement:.1f} % |")
    return "\n".join(lines) + "\n"


def draw(outcomes: Outcomes, settings: Sequence[Setting], languages: Sequence[str], title: str, path: Path) -> None:
    """Bits per byte and agreement against reduction: a row of panels per method, a line per language, dashed floors."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = list(by_method(settings))
    figure = Figure(figsize=(11.5, 0.6 + 4.6 * len(rows)), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(len(rows), 2, squeeze=False, sharey="col")
    quantities = ("bits_per_byte", "bits a byte of the second half"), ("agreement", "most probable token as static, %")
    for (method, columns), axes_of_row in zip(rows, panels, strict=True):
        for axes, (quantity, label) in zip(axes_of_row, quantities, strict=True):
            for language, color in zip(languages, mpl.color_sequences["tab10"] * 9, strict=False):
                found = [outcomes[column, language] for column in columns]
                points = [(one.reduction, getattr(one, quantity)) for one in found]
                axes.plot(*zip(*points, strict=True), marker="o", ms=4, lw=1.6, color=color, label=language)
                floor = getattr(outcomes[Setting(FLOOR), language], quantity)
                axes.axhline(floor, color=color, ls=":", lw=1, alpha=0.7)
            axes.set(xlabel="reduction of the first half: 1 − tokens ÷ static tokens, %", ylabel=label, ylim=(0, None))
            axes.set_title(f"{method}, shares of 0 to 100 %; dotted: no first half", fontsize=10)
            axes.grid(color="0.9", lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        axes_of_row[0].legend(frameon=False, ncols=3, fontsize=9)
    figure.savefig(path, dpi=110)


def run(options: Options, console: Console) -> dict[str, float | int | str]:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    decoders = decoders_by_method(options.model, options.hypernet)
    halves = load_halves(next(iter(decoders.values())), options)
    shares = [Setting(method, share) for method in decoders for share in options.shares]
    settings = [Setting(STATIC), Setting(FLOOR), *shares]
    n_texts = sum(len(of_language) for of_language in halves.values())
    with progress_bar(f"scoring, {len(settings)} settings", n_texts * len(settings), console) as on_progress:
        outcomes = measure(decoders, halves, settings, options, on_progress)
    figures = {
        "data": Path(options.data).name,
        "model": Path(options.model).name,
        "boundary": options.boundary,
        "max_subwords": options.max_subwords or "none",
        "min_static_tokens": options.min_static,
        "stride_paragraphs": options.stride,
        **flat_figures(outcomes, halves),
        "run_seconds": time.perf_counter() - started,
    }
    table = markdown_table(outcomes, settings, halves)
    figures = report(figures, table, options, console)
    console.print(f"{n_texts} texts, {len(settings)} settings")
    if options.plot:
        title = f"{figures['data']}, {figures['model']}: second halves as the first ones' tokens get fewer"
        draw(outcomes, settings, list(halves), title, options.plot)
    return figures


if __name__ == "__main__":
    run_script(run, Options, __doc__)
