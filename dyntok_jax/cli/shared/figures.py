"""Figures that the commands print as tables and write as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich import box
from rich.table import Table
from rich.text import Text

NOTHING = "–"


@dataclass(frozen=True)
class RunFigures:
    """Counts and times of encoding some texts, with dynamic and static tokenization.

    Attributes:
      name: of the language or file.
      n_texts: how many texts.
      static_tokens: subwords of the model's own tokenizer, special tokens and prefix not counted.
      tokens: tokens after merging, counted the same way.
      seconds: from texts to embeddings, without compilation.
      static_seconds: the same for static tokenization; None if it was not run.
      cache_hits: distinct tokens per batch whose embedding was cached.
      cache_misses: distinct tokens per batch whose embedding was predicted.
    """

    name: str
    n_texts: int
    static_tokens: int
    tokens: int
    seconds: float
    static_seconds: float | None
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def reduction(self) -> float | None:
        """1 − tokens ÷ static tokens, in %; None if there are no static tokens."""
        return reduction_percent(self.static_tokens, self.tokens)

    @property
    def speed(self) -> float:
        """Texts per second with dynamic tokenization."""
        return self.n_texts / max(self.seconds, 1e-9)

    @property
    def static_speed(self) -> float | None:
        """Texts per second with static tokenization."""
        return None if self.static_seconds is None else self.n_texts / max(self.static_seconds, 1e-9)


def reduction_percent(n_static: int, n_tokens: int) -> float | None:
    """1 − tokens ÷ static tokens, in %; None if there are no static tokens."""
    return 100 * (1 - n_tokens / n_static) if n_static else None


def total_of(rows: Sequence[RunFigures]) -> RunFigures:
    """The sums; the static time is None unless all rows have one."""
    static_seconds = [row.static_seconds for row in rows if row.static_seconds is not None]
    return RunFigures(
        name="all",
        n_texts=sum(row.n_texts for row in rows),
        static_tokens=sum(row.static_tokens for row in rows),
        tokens=sum(row.tokens for row in rows),
        seconds=sum(row.seconds for row in rows),
        static_seconds=sum(static_seconds) if len(static_seconds) == len(rows) else None,
        cache_hits=sum(row.cache_hits for row in rows),
        cache_misses=sum(row.cache_misses for row in rows),
    )


def run_table(rows: Sequence[RunFigures]) -> Table:
    """A row per language or file, and their total if there are several."""
    total = total_of(rows)
    has_static = any(row.static_seconds is not None for row in rows)
    cells_of = partial(_cells, has_static=has_static, has_cache=total.cache_hits + total.cache_misses > 0)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=len(rows) > 1)
    for title, cell in cells_of(total).items():
        table.add_column(title, cell, justify="right" if title else "left", footer_style="bold", no_wrap=True)
    for row in rows:
        table.add_row(*cells_of(row).values())
    return table


def run_figures(rows: Sequence[RunFigures]) -> dict[str, float | int]:
    """These figures as one flat object: `all_tokens`, `de_reduction_percent`, and so on."""
    figures: dict[str, float | int] = {}
    for row in [*rows, total_of(rows)]:
        values = {
            "texts": row.n_texts,
            "static_tokens": row.static_tokens,
            "tokens": row.tokens,
            "reduction_percent": row.reduction,
            "texts_per_second": row.speed,
            "static_texts_per_second": row.static_speed,
            "speed_ratio": _speed_ratio(row),
            "cache_hits": row.cache_hits,
            "cache_misses": row.cache_misses,
        }
        figures |= {f"{row.name}_{name}": value for name, value in values.items() if value is not None}
    return figures


def share_table(n_static: int, rows: Sequence[tuple[str, int]]) -> Table:
    """Tokens and reduction of one text.

    Args:
      n_static: subwords of the model's own tokenizer.
      rows: what was done, and the resulting number of tokens.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "tokens", "reduction"):
        table.add_column(title, justify="right" if title else "left")
    table.add_row("static", str(n_static), NOTHING)
    for name, n_tokens in rows:
        table.add_row(name, str(n_tokens), percent(reduction_percent(n_static, n_tokens)))
    return table


def figures_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """One line per row; the first row's keys are the titles, and a column without a title is left-aligned."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in rows[0]:
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def token_line(tokens: Sequence[str], *, is_coloured: bool) -> Text:
    """Tokens one after the other, on alternating backgrounds, or separated by `|` without colours."""
    if not is_coloured:
        return Text("|" + "|".join(map(_visible, tokens)) + "|")
    line = Text()
    for number, token in enumerate(tokens):
        line.append(_visible(token), style=("black on bright_cyan", "black on bright_yellow")[number % 2])
    return line


def percent(value: float | None) -> str:
    """A percentage with one decimal, a dash for None."""
    return NOTHING if value is None else f"{value:.1f} %"


def rate(value: float) -> str:
    """A number per second, with one decimal if it is small."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _visible(token: str) -> str:
    # a line break or another control character would break the line, or worse, command the terminal
    controls = {"\n": "↵", "\t": "→", "\r": "␍"}
    return "".join(controls.get(c, c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}") for c in token)


def _cells(row: RunFigures, *, has_static: bool, has_cache: bool) -> dict[str, str]:
    """The row as the table shows it, by column title."""
    ratio, n_lookups = _speed_ratio(row), row.cache_hits + row.cache_misses
    cells = {"": row.name, "texts": f"{row.n_texts}", "static": f"{row.static_tokens}", "tokens": f"{row.tokens}"}
    cells["reduction"] = percent(row.reduction)
    if has_static:
        cells["static texts/s"] = NOTHING if row.static_speed is None else rate(row.static_speed)
    cells["texts/s"] = rate(row.speed)
    if has_static:
        cells["speed"] = NOTHING if ratio is None else f"{ratio:.2f}×"
    if has_cache:
        cells["cache hits"] = percent(100 * row.cache_hits / n_lookups if n_lookups else None)
    return cells


def _speed_ratio(row: RunFigures) -> float | None:
    return row.speed / row.static_speed if row.static_speed else None
