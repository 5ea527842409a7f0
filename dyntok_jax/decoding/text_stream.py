"""The text of one sequence as its tokens come: never half a character, never part of a stop string."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

from dyntok_jax.text import ByteLevelTokenizer, to_bytes

Finish = Literal["end", "stop", "length"]
"""Why a text ended: the model ended it, a stop string was met, or it has as many tokens as it may."""


@runtime_checkable
class NewEntries(Protocol):
    """Tokens that the model's own vocabulary does not have, behind those that it has."""

    @property
    def n_own(self) -> int:
        """The id of the first."""
        ...

    def string(self, index: int) -> str:
        """The byte-level string of one of them."""
        ...


class TextStream:
    """Turns tokens into text step by step.

    Attributes:
      ids: the tokens so far, without the one that ended the text.
      text: what can be shown for good: whole characters that no stop string may yet swallow.
      finish: why the text ended; None while it goes on.
    """

    def __init__(
        self,
        tokenizer: ByteLevelTokenizer,
        *,
        end_ids: Iterable[int],
        stop: Sequence[str] = (),
        entries: NewEntries | None = None,
    ):
        """Takes the tokens and the strings that end the text; neither is part of it.

        Args:
          tokenizer: of the model.
          end_ids: the tokens.
          stop: the strings.
          entries: what tokens there are beside the model's own; None where there are no others.
        """
        self.ids: list[int] = []
        self.text = ""
        self.finish: Finish | None = None
        self._tokenizer, self._end_ids, self._stop = tokenizer, frozenset(end_ids), tuple(stop)
        self._entries = entries
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    @property
    def n_new(self) -> int | None:
        """How many tokens are new entries; None where there are none but the model's own."""
        return None if self._entries is None else sum(index >= self._entries.n_own for index in self.ids)

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next tokens; those behind the end are left out.

        Returns:
          What can be shown that could not before.
        """
        shown = ""
        for index in ids:
            if self.finish is None and index in self._end_ids:
                self.finish = "end"
            if self.finish is not None:
                break
            self.ids.append(index)
            shown += self._release(self._decoder.decode(self._bytes(index)))
        return shown

    def close(self) -> str:
        """Ends the text, by its length where nothing else ended it, and gives up what was held back."""
        if self.finish == "stop":
            return ""
        shown = self._release(self._decoder.decode(b"", final=True))
        if self.finish != "stop":
            self.text += self._held
            shown, self._held = shown + self._held, ""
        self.finish = self.finish or "length"
        return shown

    def _release(self, new: str) -> str:
        """Adds decoded text, and hands out what no stop string may still begin in."""
        self._held += new
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.finish = "stop"
            shown, self._held = self._held[: min(found)], ""
        else:
            keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
            shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.text += shown
        return shown

    def _bytes(self, index: int) -> bytes:
        if self._entries is not None and index >= self._entries.n_own:
            return to_bytes(self._entries.string(index))
        if index in self._tokenizer.special_ids or index >= self._tokenizer.n_own:
            return b""  # special tokens, and spare rows of a table, stand for no text
        return to_bytes(self._tokenizer.token_string([index]))


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string, but not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
