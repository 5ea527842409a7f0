"""One text as tokens, static and merged, without a model."""

from dataclasses import replace

import numpy as np

from dyntok_jax.merging import MergeRules, split_tokens
from dyntok_jax.options import Goal
from dyntok_jax.text import ByteLevelTokenizer, RaggedSubwords, TextEncoder, pad_batch, unmerged
from dyntok_jax.types import MergedBatch, SubwordBatch


class OneText:
    """The tokens of a text as strings, special tokens left out."""

    def __init__(self, tokenizer: ByteLevelTokenizer, text: str, rules: MergeRules):
        self.tokenizer, self.rules = tokenizer, rules
        encoder = TextEncoder(tokenizer)
        self._static = self._batch(encoder.encode_static([text]))
        self._subwords = self._batch(encoder.encode([text], boundary=rules.boundary))

    def static(self) -> list[str]:
        """The model's own subwords."""
        return self._strings(self._static, unmerged(self._static))

    def merged(self, goal: Goal | None = None) -> list[str]:
        """The tokens after merging, as the rules say, or to another goal than theirs."""
        rules = self.rules if goal is None else replace(self.rules, goal=goal, merge_list=None)
        return self._strings(self._subwords, rules.merge(self._subwords))

    def _batch(self, subwords: RaggedSubwords) -> SubwordBatch:
        return pad_batch(subwords, np.arange(1), pad_id=self.tokenizer.pad_id)

    def _strings(self, batch: SubwordBatch, merged: MergedBatch) -> list[str]:
        (tokens,) = split_tokens(batch, merged)
        counted = zip(tokens.strings(self.tokenizer), tokens.is_counted_T, strict=True)
        return [string for string, is_counted in counted if is_counted]
