"""Added tokens that are white space, which is text to the model, whatever its tokenizer calls them.

Gemma 3 has one for each run of up to 31 spaces (`▁▁`), tabs and line breaks, GPT-NeoX for runs of spaces. In byte-level
form they are entries like all others: they have a spelling, count and merge.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer


@dataclass(frozen=True)
class SpaceTokens:
    """The added tokens of a tokenizer that it reads white space with.

    Attributes:
      texts: the white space that each stands for, by id.
      whole: ids of those that are cut out of a text before the rest of it is split.
    """

    texts: Mapping[int, str]
    whole: frozenset[int]

    @classmethod
    def of(cls, own: Tokenizer, spec: dict, *, marks_spaces: bool, splits_first: bool) -> "SpaceTokens":
        """Finds them by asking the tokenizer.

        Args:
          own: the tokenizer.
          spec: the same as tokenizer.json writes it.
          marks_spaces: its pieces write a space as `▁`.
          splits_first: it puts a space before each part of a text between added tokens. Then only what it cuts out
            itself may be cut out, for what follows gets such a space.
        """
        texts, whole = {}, set()
        for token in spec["added_tokens"]:
            content = token["content"]
            text = content.replace("▁", " ") if marks_spaces else content
            if not text.isspace() or token["lstrip"] or token["rstrip"] or token["single_word"]:
                continue
            index = token["id"]
            is_cut_out = index in _ids(own, f"a{text}a")
            if is_cut_out or _ids(own, text) == [index]:
                texts[index] = text
                if is_cut_out and (not splits_first or (text == content and not token["normalized"])):
                    whole.add(index)
        return cls(texts, frozenset(whole))


def _ids(own: Tokenizer, text: str) -> list[int]:
    try:
        return own.encode(text, add_special_tokens=False).ids
    except Exception:  # the library's error for a character that the tokenizer cannot write
        return []
