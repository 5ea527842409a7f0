"""Special tokens that a user typed, read as text: a twin of the tokenizer that knows special tokens by other names.

A tokenizer finds `</s>` wherever it is written. Its twin has the same ids, but each special token goes by a disguise of
the same length, made of private-use characters. Text that is to be read as text is left as it is; where a special token
is meant, as in what a chat template writes, the disguise is put in its place. Spans stay those of the text.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from dyntok_jax.errors import InputError
from dyntok_jax.text.byte_level import ByteLevelTokenizer

FIRST_DISGUISE = 0x10_0000
"""The first character of Unicode's last private-use area."""


@dataclass(frozen=True)
class SpecialNames:
    """The special tokens of a tokenizer and their disguises.

    Attributes:
      disguises: by token.

    >>> names = SpecialNames.of(tokenizer)
    >>> sorted(names.disguises)
    ['</s>', '<mask>', '<pad>', '<s>', '<unk>']
    >>> twin = names.twin(tokenizer)
    >>> [twin.own.encode(text, add_special_tokens=False).ids == [2] for text in ("</s>", names.swap("</s>"))]
    [False, True]
    """

    disguises: Mapping[str, str]

    @classmethod
    def of(cls, tokenizer: ByteLevelTokenizer) -> "SpecialNames":
        """Those of a tokenizer, the unknown token among them; white space is text, even if it is called special."""
        added = sorted(tokenizer.own.get_added_tokens_decoder().items())
        special = [token for index, token in added if token.special and index not in tokenizer.space_ids]
        contents = [token.content for token in special if token.content]
        return cls({text: chr(FIRST_DISGUISE + at) * len(text) for at, text in enumerate(contents)})

    def are_in(self, value: Any) -> bool:
        """Whether a special token is written in a text, or in any text within lists and mappings."""
        return any(self._pattern.search(text) for text in _texts_in(value))

    def swap(self, value: Any) -> Any:
        """The same with tokens and disguises in each other's place, in all texts within lists and mappings."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self._other[found[0]], value)
        if isinstance(value, Mapping):
            return {self.swap(key): self.swap(one) for key, one in value.items()}
        return [self.swap(one) for one in value] if isinstance(value, Sequence) else value

    def show(self, text: str) -> str:
        """The text with tokens instead of disguises."""
        return self._pattern.sub(lambda found: self._tokens.get(found[0], found[0]), text)

    def check_free(self, value: Any) -> None:
        """Sees that no text, within lists and mappings, is or holds a disguise.

        Raises:
          InputError: one does.
        """
        for text in _texts_in(value):
            for character in text:
                if FIRST_DISGUISE <= ord(character) < FIRST_DISGUISE + len(self.disguises):
                    raise InputError(
                        f"A text holds the private-use character U+{ord(character):X}, which stands for a special "
                        "token where special tokens are read as text: remove it."
                    )

    def twin(self, tokenizer: ByteLevelTokenizer) -> ByteLevelTokenizer:
        """The tokenizer with the same ids that knows its special tokens by their disguises only."""
        return replace(tokenizer, own=self._renamed(tokenizer.own), byte_level=self._renamed(tokenizer.byte_level))

    def _renamed(self, tokenizer: Tokenizer) -> Tokenizer:
        spec = json.loads(tokenizer.to_str())
        new = self.disguises
        for token in spec["added_tokens"]:
            if token["content"] in new:  # a normaliser might drop or change a disguise
                token |= {"content": new[token["content"]], "normalized": False}
        model = spec["model"]
        if model["type"] == "Unigram":
            model["vocab"] = [(new.get(piece, piece), score) for piece, score in model["vocab"]]
        else:
            model["vocab"] = {new.get(piece, piece): index for piece, index in model["vocab"].items()}
            model["unk_token"] = new.get(model["unk_token"], model["unk_token"])
        if model["type"] == "BPE":  # text must not be merged to a special token either
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & new.keys()]
        return Tokenizer.from_str(json.dumps(spec))

    @cached_property
    def _tokens(self) -> dict[str, str]:
        return {disguise: token for token, disguise in self.disguises.items()}

    @cached_property
    def _other(self) -> dict[str, str]:
        return {**self.disguises, **self._tokens}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._other, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _texts_in(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts_in(pair)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts_in(one)
