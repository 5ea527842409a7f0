"""`dyntok show`: the tokens of a text before and after merging. Needs the tokenizer, not the model."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import tyro

from dyntok_jax.cli.shared import (
    Count,
    MaxSubwords,
    Model,
    OptionalBoundary,
    OptionalPath,
    Percent,
    Protect,
    arg,
    goal_of,
    make_console,
    merging_of,
    print_out,
)
from dyntok_jax.options import (
    DEFAULT_MODEL,
)
from dyntok_jax.text import STDIN, read_lines

SHARES = (0, 25, 50, 75, 100)


@dataclass(frozen=True)
class Show:
    """Shows the tokens of a text before and after merging, and its reduction at several shares of the maximum.

    Attributes:
      text: the text, or - for standard input.
      model: a folder with a tokenizer.json, a Hugging Face Hub id, or a packaged model.
      share: merge until this share of the maximum reduction is reached.
      merges: merge this many times.
      merge_list: apply the merges that `dyntok learn-merges` wrote to this file.
      boundary: what merging may not cross (default: pretoken, or the merge list's own).
      max_subwords: the longest token, in subwords (default: 7).
      protect: text that keeps its own subwords: digits, a regular expression, or none (default: none).
      pretoken_merges: the first so many merges stay within pretokens, later ones only within the boundary.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok show "All human beings are born free and equal"
  dyntok show "Tous les êtres humains naissent libres" --share 50 --boundary word
  dyntok show "ทุกคนเกิดมาเป็นอิสระ" --max-subwords none
  fortune | dyntok show - --merges 10
"""

    text: tyro.conf.Positional[Annotated[str, arg(metavar="TEXT")]]
    model: Model = DEFAULT_MODEL
    share: Percent = None
    merges: Count = None
    merge_list: OptionalPath = None
    boundary: OptionalBoundary = None
    max_subwords: MaxSubwords = None
    protect: Protect = None
    pretoken_merges: Annotated[int, arg(metavar="N")] = 0

    def run(self) -> None:
        """Tokenizes, merges, prints."""
        goal = goal_of(self.share, self.merges)
        text = "\n".join(read_lines(STDIN)) if self.text == STDIN else self.text

        from dyntok_jax.cli.shared import OneText, share_table, token_line
        from dyntok_jax.embedding import DEFAULT_MAX_SUBWORDS
        from dyntok_jax.files import find_model
        from dyntok_jax.merging import resolve_merging
        from dyntok_jax.options import Share
        from dyntok_jax.text import ByteLevelTokenizer

        tokenizer = ByteLevelTokenizer.load(find_model(self.model, kind="tokenizer"))
        asked = merging_of(
            goal,
            is_goal_given=(self.share, self.merges) != (None, None),
            boundary=self.boundary,
            max_subwords=self.max_subwords,
            merge_list=self.merge_list,
            protect=self.protect,
        )
        merging = resolve_merging(
            replace(asked, pretoken_merges=self.pretoken_merges),
            tokenizer=tokenizer.fingerprint,
            scope="batch",
            merge_last=True,
            longest=DEFAULT_MAX_SUBWORDS,
            is_longest_strict=False,
        )
        one = OneText(tokenizer, text, merging)
        static, merged = one.static(), one.merged()
        counts = [(f"share {percent} %", len(one.merged(Share(percent)))) for percent in SHARES]
        is_coloured = make_console().is_terminal and make_console().color_system is not None
        is_listed, share = merging.merge_list is not None, goal.percent if isinstance(goal, Share) else None
        named = "merge list" if is_listed else f"{self.merges} merges" if share is None else None
        print_out(
            "static",
            token_line(static, is_coloured=is_coloured),
            f"\n{named or f'share {share:g} %'}",
            token_line(merged, is_coloured=is_coloured),
            share_table(len(static), [(named, len(merged)), *counts] if named else counts),
        )
