"""What encoding texts gives: embeddings or hidden states, tokens, spans, counts, timings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from dyntok_jax.text.batches import token_spans, token_words
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.types import MergedBatch, SubwordBatch


@dataclass
class Timings:
    """Seconds spent in each stage, one after the other.

    Attributes:
      tokenize: texts to subwords.
      merge: subwords to tokens.
      embed: distinct tokens, cache, prediction.
      model: the device's work on each batch, and fetching what comes back.
      total: the whole call.
    """

    tokenize: float = 0.0
    merge: float = 0.0
    embed: float = 0.0
    model: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class TextTokens:
    """The tokens of one text, special tokens included.

    Attributes:
      subword_L: the text's subword ids.
      start_T: index of each token's first subword.
      length_T: subwords of each token.
      span_T2: character ranges in the text.
      type_T: which text of a pair.
      word_T: pre-split word, or -1.
      is_counted_T: False for special tokens and prefixes.
    """

    subword_L: Int32[np.ndarray, "L"]
    start_T: Int32[np.ndarray, "T"]
    length_T: Int32[np.ndarray, "T"]
    span_T2: Int32[np.ndarray, "T 2"]
    type_T: Int32[np.ndarray, "T"]
    word_T: Int32[np.ndarray, "T"]
    is_counted_T: Bool[np.ndarray, "T"]

    def __len__(self) -> int:
        return len(self.start_T)

    def ids(self) -> list[list[int]]:
        """The subword ids of each token."""
        ends = self.start_T + self.length_T
        return [self.subword_L[start:end].tolist() for start, end in zip(self.start_T, ends, strict=True)]

    def strings(self, tokenizer: ByteLevelTokenizer) -> list[str]:
        """Each token as text; bytes that are no whole character show as U+FFFD."""
        return [tokenizer.token_text(token) for token in self.ids()]


def split_tokens(batch: SubwordBatch, merged: MergedBatch) -> list[TextTokens]:
    """The tokens of each sequence of a batch, padding left off."""
    span_BT2, word_BT = token_spans(batch, merged), token_words(batch, merged)
    type_BT = np.take_along_axis(batch.type_BL, merged.start_BT, axis=1)
    is_counted_BT = np.take_along_axis(batch.is_counted_BL, merged.start_BT, axis=1)
    texts = []
    for row, keep in enumerate(merged.mask_BT):
        texts.append(
            TextTokens(
                subword_L=batch.ids_BL[row][batch.mask_BL[row]],
                start_T=merged.start_BT[row, keep],
                length_T=merged.length_BT[row, keep],
                span_T2=span_BT2[row, keep],
                type_T=type_BT[row, keep],
                word_T=word_BT[row, keep],
                is_counted_T=is_counted_BT[row, keep],
            )
        )
    return texts


def join_tokens(texts: Sequence[TextTokens]) -> MergedBatch:
    """The tokens of some texts as one padded batch, the inverse of `split_tokens`."""
    length_B = np.array([len(text) for text in texts])
    mask_BT = np.arange(max(1, length_B.max(initial=1)))[None, :] < length_B[:, None]
    start_BT, length_BT = np.zeros(mask_BT.shape, np.int32), np.zeros(mask_BT.shape, np.int32)
    start_BT[mask_BT] = np.concatenate([text.start_T for text in texts])
    length_BT[mask_BT] = np.concatenate([text.length_T for text in texts])
    return MergedBatch(start_BT=start_BT, length_BT=length_BT, mask_BT=mask_BT, n_merges=None)


@dataclass(frozen=True)
class EncodedTexts:
    """The result of `DynamicEncoder.encode`, in the order of the texts.

    Attributes:
      embeddings_ND: pooled sentence embeddings; None where hidden states were asked for.
      hidden: hidden states (T_i, D) of each text's tokens; None where embeddings were asked for.
      tokens: the tokens of each text.
      n_subwords: subwords of each text before merging, special tokens and prefix not counted.
      n_tokens: tokens of each text, counted alike.
      padded_tokens: tokens that the model was fed in all, padding and special tokens included.
      cache_hits: tokens whose embedding the cache held.
      cache_misses: tokens whose embedding was predicted.
      timings: seconds a stage.
    """

    embeddings_ND: Float32[np.ndarray, "texts D"] | None
    hidden: Sequence[Float32[np.ndarray, "_ D"]] | None
    tokens: Sequence[TextTokens]
    n_subwords: Int[np.ndarray, "texts"]
    n_tokens: Int[np.ndarray, "texts"]
    padded_tokens: int
    cache_hits: int = 0
    cache_misses: int = 0
    timings: Timings = field(default_factory=Timings)
