"""The tokens of texts: merged by one set of rules, batch by batch, and each text's apart again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int32

from dyntok_jax.embedding.embedder import TokenEmbedder
from dyntok_jax.errors import InputError, TooLongError
from dyntok_jax.merging import Budget, Goal, MergeList, Scope, Share, merge_batch_on_host, truncate_tokens
from dyntok_jax.text.batches import RaggedSubwords, pad_batch, token_spans, token_words, unmerged
from dyntok_jax.text.boundaries import Boundary
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.types import NO_SEGMENT, MergedBatch, SubwordBatch

FULL = Share(100)


@dataclass(frozen=True)
class MergeRules:
    """What merging does to texts.

    Attributes:
      goal: when it stops; None is static tokenization; full merging beside a merge list.
      boundary: what it may not cross.
      max_subwords: the longest token, None for no limit.
      merge_list: merges to apply instead of finding them.
      scope: what pairs are counted over.
    """

    goal: Goal | None = FULL
    boundary: Boundary = "pretoken"
    max_subwords: int | None = None
    merge_list: MergeList | None = None
    scope: Scope = "batch"

    def merge(self, batch: SubwordBatch) -> MergedBatch:
        """Merges a batch; a sequence that stays over a token budget is kept as short as it got."""
        if self.goal is None:
            return unmerged(batch)
        arrays = (batch.ids_BL, batch.segment_BL, batch.mask_BL)
        if self.merge_list is not None:
            return self.merge_list.apply(*arrays)
        return merge_batch_on_host(
            *arrays, self.goal, max_subwords=self.max_subwords, scope=self.scope, over_budget="keep"
        )


def merge_rules(
    embedder: TokenEmbedder,
    *,
    goal: object,
    boundary: str,
    scope: str,
    max_subwords: int | Literal["auto"] | None,
    merge_list: MergeList | None,
) -> MergeRules:
    """Puts a caller's options together, and checks them.

    Args:
      embedder: of the model; it knows the longest token that a row can stand for (`auto`).
      goal: when merging stops, None for static tokenization.
      boundary: what merging may not cross.
      scope: what pairs are counted over.
      max_subwords: the longest token, None for no limit.
      merge_list: merges to apply; `goal` must then be full merging.

    Raises:
      InputError: what is no goal or scope, a merge list beside a goal, or one of another tokenizer or boundary.
    """
    if not isinstance(goal, Goal | None):
        raise InputError(f"{goal!r} is no goal: give Merges, Share or Budget, or None for static tokenization.")
    if scope not in get_args(Scope):
        raise InputError(f"No scope {scope!r}: choose one of {', '.join(get_args(Scope))}.")
    if merge_list is not None:
        _check_merge_list(merge_list, embedder, boundary, goal)
    limit = embedder.max_subwords if max_subwords == "auto" else max_subwords
    return MergeRules(goal, boundary, limit, merge_list, scope)


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


def merge_texts(
    subwords: RaggedSubwords, rules: MergeRules, *, batch_size: int, pad_id: int, limit: int, truncate: bool | None
) -> list[TextTokens]:
    """Merges texts, `batch_size` at a time as they come.

    Args:
      subwords: the texts.
      rules: how.
      batch_size: texts whose pairs are counted together in scope `batch`.
      pad_id: the padding token.
      limit: the most tokens a text, special tokens included.
      truncate: cut texts that stay longer; None where nobody can ask for that.

    Raises:
      TooLongError: a text stays longer than `limit`, or than a token budget, and is not to be cut.
    """
    if isinstance(rules.goal, Budget):
        limit = min(limit, rules.goal.tokens)
    tokens: list[TextTokens] = []
    for at in range(0, len(subwords), batch_size):
        rows = np.arange(at, min(at + batch_size, len(subwords)))
        batch = pad_batch(subwords, rows, pad_id=pad_id)
        tokens += split_tokens(batch, _fit(batch, rules.merge(batch), at, limit, truncate))
    return tokens


def _check_merge_list(merge_list: MergeList, embedder: TokenEmbedder, boundary: str, goal: Goal | None) -> None:
    if goal != FULL:
        raise InputError("A merge list says itself how far to merge: give no goal beside it.")
    if merge_list.tokenizer != embedder.tokenizer.fingerprint:
        raise InputError("The merge list was learnt with another tokenizer: learn one with this model's.")
    if merge_list.boundary != boundary:
        raise InputError(
            f"The merge list was learnt with boundary {merge_list.boundary!r}, not {boundary!r}: use that."
        )
    longest, limit = merge_list.max_subwords, embedder.max_subwords
    if embedder.hypernet is not None and (longest is None or longest > limit):
        raise InputError(
            f"The merge list makes tokens of {'any number of' if longest is None else longest} subwords and the "
            f"hypernetwork knows at most {limit}: learn one with max_subwords={limit}."
        )


def _fit(batch: SubwordBatch, merged: MergedBatch, first: int, limit: int, truncate: bool | None) -> MergedBatch:
    """Checks the limit, which counts tokens, and cuts longer texts if that was asked for; `first` is row 0's number."""
    lengths_B = merged.mask_BT.sum(axis=1)
    if (lengths_B <= limit).all():
        return merged
    if truncate:
        # a special token that stands in the text itself is cut like text; those around it have no characters
        can_cut_BL = batch.is_counted_BL | (batch.span_BL2[..., 1] > 0)
        segment_BL = np.where(can_cut_BL, 0, NO_SEGMENT).astype(np.int32)
        return truncate_tokens(merged, segment_BL, batch.type_BL, limit)
    worst = int(lengths_B.argmax())
    advice = "shorten it, or merge more"
    if truncate is not None:
        advice = "split it, merge more, or ask for truncation (truncate=True, --truncate)"
    raise TooLongError(
        f"Text {first + worst} has {lengths_B[worst]} tokens after merging, special tokens included, and there is room "
        f"for {limit}: {advice}."
    )
