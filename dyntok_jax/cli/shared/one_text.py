"""One text as tokens, static and merged, without a model."""

from dataclasses import replace

from dyntok_jax.merging import RaggedTokens, merge_texts, unmerged_tokens
from dyntok_jax.options import Goal, Merging
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder


class OneText:
    """The tokens of a text as strings, without special tokens."""

    def __init__(self, tokenizer: ByteLevelTokenizer, text: str, merging: Merging):
        self.tokenizer, self.merging = tokenizer, merging
        encoder = TextEncoder(tokenizer)
        self._static = encoder.encode_static([text])
        self._subwords = encoder.encode([text], boundary=merging.boundary, protect=merging.protect)

    def static(self) -> list[str]:
        """The model's own subwords."""
        return self._strings(unmerged_tokens(self._static))

    def merged(self, goal: Goal | None = None) -> list[str]:
        """The tokens after merging, or after merging to another goal."""
        merging = self.merging if goal is None else replace(self.merging, goal=goal, merge_list=None)
        limit = len(self._subwords.ids_N)
        return self._strings(merge_texts(self._subwords, merging, batch_size=1, limit=limit, truncate=None))

    def _strings(self, tokens: RaggedTokens) -> list[str]:
        of_text = tokens[0]
        counted = zip(of_text.strings(self.tokenizer), of_text.is_counted_T, strict=True)
        return [string for string, is_counted in counted if is_counted]
