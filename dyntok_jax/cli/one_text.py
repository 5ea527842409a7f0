"""One text as tokens, static and merged, without a model."""

import numpy as np

from dyntok_jax.cli.options import MergeRules
from dyntok_jax.encoded import split_tokens
from dyntok_jax.merging import Goal, merge_batch_on_host
from dyntok_jax.text.batches import RaggedSubwords, pad_batch, unmerged
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.text.encode import TextEncoder
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
        batch = self._subwords
        arrays = (batch.ids_BL, batch.segment_BL, batch.mask_BL)
        if goal is None and self.rules.merge_list is not None:
            return self._strings(batch, self.rules.merge_list.apply(*arrays))
        goal = self.rules.goal if goal is None else goal
        return self._strings(batch, merge_batch_on_host(*arrays, goal, max_subwords=self.rules.max_subwords))

    def _batch(self, subwords: RaggedSubwords) -> SubwordBatch:
        return pad_batch(subwords, np.arange(1), pad_id=self.tokenizer.pad_id)

    def _strings(self, batch: SubwordBatch, merged: MergedBatch) -> list[str]:
        (tokens,) = split_tokens(batch, merged)
        counted = zip(tokens.strings(self.tokenizer), tokens.is_counted_T, strict=True)
        return [string for string, is_counted in counted if is_counted]
