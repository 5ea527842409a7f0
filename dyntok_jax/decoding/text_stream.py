"""The text of one sequence, token by token: never half a character, never part of a stop string."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

from dyntok_jax.text import ByteLevelTokenizer, to_bytes

Finish = Literal["end", "stop", "length"]
"""Why a text ended: by an end token, a stop string, or the limit on its tokens."""


@runtime_checkable
class NewEntries(Protocol):
    """Tokens that the model's own vocabulary does not have; their ids follow its own."""

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
      text: what is safe to show: whole characters that cannot be the beginning of a stop string.
      finish: why the text ended; None until then.
    """

    def __init__(
        self,
        tokenizer: ByteLevelTokenizer,
        *,
        end_ids: Iterable[int],
        stop: Sequence[str] = (),
        entries: NewEntries | None = None,
    ):
        """Takes the tokens and the strings that end the text; neither becomes part of it.

        Args:
          tokenizer: of the model.
          end_ids: tokens that end the text.
          stop: strings that end the text.
          entries: tokens that the model's own vocabulary does not have; None where there are none.
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
        """How many tokens are new entries; None where the vocabulary is the model's own."""
        return None if self._entries is None else sum(index >= self._entries.n_own for index in self.ids)

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next tokens and ignores those after the end.

        Returns:
          The text that is newly safe to show.
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
        """Ends the text, by its length where nothing else ended it, and returns what was held back."""
        if self.finish == "stop":
            return ""
        shown = self._release(self._decoder.decode(b"", final=True))
        if self.finish != "stop":
            self.text += self._held
            shown, self._held = shown + self._held, ""
        self.finish = self.finish or "length"
        return shown

    def _release(self, new: str) -> str:
        """Adds decoded text, and returns what cannot be the beginning of a stop string."""
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
            return b""  # special tokens and spare rows of a table have no text
        return to_bytes(self._tokenizer.token_string([index]))


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string, but not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
