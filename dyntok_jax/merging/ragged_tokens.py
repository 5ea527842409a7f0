"""The tokens of many texts, laid end to end: which consecutive subwords make each, and views of single texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import SupportsIndex, overload

import numpy as np
from jaxtyping import Bool, Int, Int32

from dyntok_jax.errors import InputError, TooLongError
from dyntok_jax.merging.goals import FirstMerges
from dyntok_jax.merging.host import merge_ragged
from dyntok_jax.merging.segments import within_pretokens
from dyntok_jax.merging.truncate import truncate_tokens
from dyntok_jax.options import Budget, Merges, Merging, Share
from dyntok_jax.text import ByteLevelTokenizer, RaggedSubwords, pad_ragged, rows_end_to_end
from dyntok_jax.types import NO_SEGMENT, MergedBatch


@dataclass(frozen=True)
class TextTokens:
    """The tokens of one text, special tokens included.

    Attributes:
      subword_L: the text's subword ids.
      start_T: index of each token's first subword.
      length_T: subwords of each token.
      span_T2: character ranges in the text.
      type_T: the model's token types.
      text_T: which text of a pair, -1 for special tokens around texts.
      word_T: pre-split word, or -1.
      is_counted_T: False for special tokens and prefixes.

    >>> text = tokens[2]
    >>> text.strings(tokenizer), text.span_T2.tolist()
    (['<s>', ' Freiheit', '</s>'], [[0, 0], [0, 8], [0, 0]])
    """

    subword_L: Int32[np.ndarray, "L"]
    start_T: Int32[np.ndarray, "T"]
    length_T: Int32[np.ndarray, "T"]
    span_T2: Int32[np.ndarray, "T 2"]
    type_T: Int32[np.ndarray, "T"]
    text_T: Int32[np.ndarray, "T"]
    word_T: Int32[np.ndarray, "T"]
    is_counted_T: Bool[np.ndarray, "T"]

    def __len__(self) -> int:
        return len(self.start_T)

    def ids(self) -> list[list[int]]:
        """The subword ids of each token."""
        ends = self.start_T + self.length_T
        return [self.subword_L[start:end].tolist() for start, end in zip(self.start_T, ends, strict=True)]

    def strings(self, tokenizer: ByteLevelTokenizer) -> list[str]:
        """Each token as text; parts of a character show as U+FFFD."""
        return [tokenizer.token_text(token) for token in self.ids()]


@dataclass(frozen=True)
class RaggedTokens(Sequence[TextTokens]):
    """The tokens of many texts, M in all, special tokens included; as a sequence, a view of each text's.

    Attributes:
      subwords: the texts' subwords, N in all.
      start_M: index of each token's first subword among the N.
      length_M: subwords of each token.
      offsets: first token of each text, and M at the end.

    >>> len(tokens), tokens.lengths - tokens.counts  # special tokens
    (3, array([2, 2, 2]))
    >>> [text.strings(tokenizer)[1] for text in tokens]
    [' Freiheit', ' All', ' Freiheit']
    """

    subwords: RaggedSubwords
    start_M: Int32[np.ndarray, "M"]
    length_M: Int32[np.ndarray, "M"]
    offsets: Int[np.ndarray, "texts_and_one"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, "texts"]:
        """Tokens of each text, special tokens included."""
        return np.diff(self.offsets)

    @property
    def n_subwords(self) -> Int[np.ndarray, "texts"]:
        """Subwords of each text's tokens, special tokens included."""
        return np.diff(np.append(0, np.cumsum(self.length_M))[self.offsets])

    @property
    def counts(self) -> Int[np.ndarray, "texts"]:
        """Tokens of each text, special tokens and prefixes left out."""
        return np.diff(np.append(0, np.cumsum(self.subwords.is_counted_N[self.start_M]))[self.offsets])

    @cached_property
    def spans(self) -> Int32[np.ndarray, "M 2"]:
        """Character ranges: from the first character that a token's subwords touch to the last."""
        # ends never go back within a text: bytes of one character share its range
        last_M = self.start_M + self.length_M - 1
        return np.stack([self.subwords.span_N2[self.start_M, 0], self.subwords.span_N2[last_M, 1]], axis=-1)

    @overload
    def __getitem__(self, row: SupportsIndex) -> TextTokens: ...
    @overload
    def __getitem__(self, row: slice) -> list[TextTokens]: ...
    def __getitem__(self, row: SupportsIndex | slice) -> TextTokens | list[TextTokens]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        tokens = slice(self.offsets[row], self.offsets[row + 1])
        begin, end = self.subwords.offsets[row : row + 2]
        start_T = self.start_M[tokens]
        return TextTokens(
            subword_L=self.subwords.ids_N[begin:end],
            start_T=(start_T - begin).astype(np.int32),
            length_T=self.length_M[tokens],
            span_T2=self.spans[tokens],
            type_T=self.subwords.type_N[start_T],
            text_T=self.subwords.text_N[start_T],
            word_T=self.subwords.word_N[start_T],
            is_counted_T=self.subwords.is_counted_N[start_T],
        )

    def __iter__(self) -> Iterator[TextTokens]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Int[np.ndarray, "rows"], begin: int = 0, end: int | None = None) -> "RaggedTokens":
        """The tokens of some texts, in the order of `rows`, from `begin` to `end` of each; their subwords stay."""
        index_M, offsets = rows_end_to_end(self.offsets, rows)
        if begin > 0 or end is not None:
            place_M = np.arange(len(index_M)) - np.repeat(offsets[:-1], np.diff(offsets))
            is_kept_M = (place_M >= begin) & (place_M < (len(place_M) if end is None else end))
            index_M, offsets = index_M[is_kept_M], np.append(0, np.cumsum(is_kept_M))[offsets]
        return RaggedTokens(self.subwords, self.start_M[index_M], self.length_M[index_M], offsets)


def common_beginning(tokens: RaggedTokens) -> int:
    """How many tokens all texts begin with; the last one of a text never counts.

    >>> common_beginning(tokens.take(np.array([0, 2])))  # `<s>| Freiheit| und …` and `<s>| Freiheit|</s>`
    2
    """
    count = int(tokens.lengths.min()) - 1 if len(tokens) else 0
    if count < 1:
        return 0
    beginnings = tokens.take(np.arange(len(tokens)), end=count)
    length_RT = beginnings.length_M.reshape(len(tokens), count)
    end_T = np.cumsum(length_RT[0, : _alike(length_RT)])
    # tokens of the same lengths have their subwords at the same places
    first_R1 = beginnings.start_M.reshape(len(tokens), count)[:, :1]
    subword_RL = tokens.subwords.ids_N[first_R1 + np.arange(end_T.max(initial=0))]
    return int(np.searchsorted(end_T, _alike(subword_RL), side="right"))


def _alike(values_RT: Int32[np.ndarray, "texts T"]) -> int:
    """How many columns from the first on have the same value in all rows."""
    return int(np.cumprod((values_RT == values_RT[:1]).all(axis=0)).sum())


def unmerged_tokens(subwords: RaggedSubwords) -> RaggedTokens:
    """Every subword as its own token: all of static tokenization.

    >>> unmerged_tokens(subwords).lengths.tolist() == subwords.lengths.tolist()
    True
    """
    n = len(subwords.ids_N)
    return RaggedTokens(subwords, np.arange(n, dtype=np.int32), np.ones(n, np.int32), subwords.offsets)


def first_tokens(tokens: RaggedTokens, n_words: Sequence[int]) -> list[Int32[np.ndarray, "words"]]:
    """The first token of each word of pre-split texts: the one whose label is the word's.

    A token may hold several words where the boundary lets it: it is then the first of all of them.

    Args:
      tokens: of texts given as lists of words, as `merge_texts` returns them.
      n_words: how many words each text has.

    Returns:
      For each text, and for each of its words, the index of the token that holds the word's first subword; -1 for a
      word without subwords (an empty one), and for one that was cut off.

    Raises:
      InputError: `n_words` does not fit: it is of other texts, or these were not given as lists of words.

    >>> of_words = text_encoder.encode([["Freiheit", "und", "Gleichheit"]])
    >>> first_tokens(unmerged_tokens(of_words), [3])
    [array([1, 2, 3], dtype=int32)]
    """
    if len(n_words) != len(tokens):
        raise InputError(f"There are {len(tokens)} texts and numbers of words for {len(n_words)}: give one a text.")
    found = []
    for row, (text, n) in enumerate(zip(tokens, n_words, strict=True)):
        word_L = tokens.subwords.word_N[slice(*tokens.subwords.offsets[row : row + 2])]
        word_W, first_W = np.unique(word_L, return_index=True)
        word_W, first_W = word_W[word_W >= 0], first_W[word_W >= 0]
        n_found = int(word_W.max(initial=-1)) + 1
        if n_found > n or (n and not n_found and text.is_counted_T.any()):
            raise InputError(
                f"Text {row} is said to have {n} words, and its subwords come from {n_found}: give texts as lists of "
                "words, and the length of each list."
            )
        token_W = np.searchsorted(text.start_T, first_W, side="right") - 1
        ends_before_W = first_W >= (text.start_T + text.length_T)[token_W] if len(text) else np.ones(len(first_W), bool)
        of_word = np.full(n, -1, np.int32)
        of_word[word_W] = np.where(ends_before_W, -1, token_W)
        found.append(of_word)
    return found


def merge_texts(
    subwords: RaggedSubwords,
    merging: Merging,
    *,
    batch_size: int,
    limit: int,
    truncate: bool | None,
    goals: Sequence[Merges | Share] | None = None,
) -> RaggedTokens:
    """Merges texts, `batch_size` at a time as they come, or each alone to a goal of its own.

    Args:
      subwords: the texts; static ones for static tokenization.
      merging: how, resolved (see `resolve_merging`).
      batch_size: texts whose pairs are counted together in scope `batch`.
      limit: the most positions that a text may take, special tokens included: tokens or subwords, as `merging` counts.
      truncate: cut texts that stay longer; None if the caller has no such option, which the error then does not name.
      goals: one for each text, in place of the goal and scope of `merging`, which then must not be static.

    Raises:
      TooLongError: a text stays longer than `limit`, or than a token budget, and is not to be cut.

    >>> from dyntok_jax.options import Budget, Merging
    >>> merging = encoder.embedder.resolve(Merging(Budget(9)), scope="batch", merge_last=True)
    >>> merge_texts(subwords, merging, batch_size=3, limit=64, truncate=None).lengths.max()
    np.int64(9)
    """
    if merging.is_static:
        tokens = unmerged_tokens(subwords)
    else:
        subwords_to_merge = replace(subwords, segment_N=segments_to_merge(subwords, merging))
        if goals is None:
            n = len(subwords)
            batches = [(at, min(at + batch_size, n), merging) for at in range(0, n, batch_size)]
        else:
            batches = [(row, row + 1, replace(merging, goal=goal)) for row, goal in enumerate(goals)]
        lengths = [_merge(subwords_to_merge, *batch) for batch in batches]
        tokens = tokens_of_lengths(subwords, np.concatenate(lengths) if lengths else np.zeros(0, np.int32))
    return fit_tokens(tokens, merging, limit, truncate)


def segments_to_merge(subwords: RaggedSubwords, merging: Merging) -> Int32[np.ndarray, "N"]:
    """The segment of each subword; `NO_SEGMENT` for last segments that `merging` leaves as they are.

    >>> from dyntok_jax.options import Merging
    >>> merging = encoder.embedder.resolve(Merging(merge_last=False), scope="batch", merge_last=True)
    >>> bool((segments_to_merge(subwords, merging) == NO_SEGMENT).any())
    True
    """
    if merging.merge_last:
        return subwords.segment_N
    # where the whole text is one segment, only its last pretoken may be unfinished
    narrow_N = subwords.segment_N
    if merging.boundary == "sentence":
        narrow_N = np.asarray(within_pretokens(subwords.segment_N, subwords.pretoken_N))
    return np.where(_is_last(narrow_N, subwords.offsets), NO_SEGMENT, subwords.segment_N).astype(np.int32)


def tokens_of_lengths(subwords: RaggedSubwords, length_N: Int32[np.ndarray, "N"]) -> RaggedTokens:
    """Tokens, given the length of the one that begins at each subword, and 0 elsewhere.

    >>> tokens = tokens_of_lengths(subwords, np.ones(len(subwords.ids_N), np.int32))
    >>> bool((tokens.lengths == unmerged_tokens(subwords).lengths).all())
    True
    """
    start_M = np.flatnonzero(length_N).astype(np.int32)
    return RaggedTokens(subwords, start_M, length_N[start_M], np.searchsorted(start_M, subwords.offsets))


def fit_tokens(tokens: RaggedTokens, merging: Merging, limit: int, truncate: bool | None) -> RaggedTokens:
    """Checks that each text fits, or cuts it: the last step of `merge_texts`, with its arguments and errors.

    >>> from dyntok_jax.options import Merging
    >>> merging = encoder.embedder.resolve(Merging(), scope="batch", merge_last=True)
    >>> bool(fit_tokens(unmerged_tokens(subwords), merging, limit=64, truncate=None).lengths.max() <= 64)
    True
    """
    n_tokens = min(limit, merging.goal.tokens) if isinstance(merging.goal, Budget) else limit
    tokens = _fit(tokens, n_tokens, truncate)
    return _fit(tokens, limit, truncate, counts_subwords=True) if merging.positions == "subwords" else tokens


def _merge(subwords: RaggedSubwords, first: int, end: int, merging: Merging) -> Int32[np.ndarray, "n"]:
    """The length of the token that begins at each subword of texts `first` to `end`; 0 elsewhere."""
    offsets = subwords.offsets[first : end + 1]
    chosen = slice(offsets[0], offsets[-1])
    arrays = subwords.ids_N[chosen], subwords.segment_N[chosen], offsets - offsets[0]
    if merging.merge_list is not None:
        return merging.merge_list.apply_ragged(*arrays)
    assert merging.goal is not None, "static texts are not merged"
    assert merging.scope != "auto", "merging is resolved before texts are merged"
    assert merging.max_subwords != "auto", "merging is resolved before texts are merged"
    stage = None
    if merging.pretoken_merges:
        stage = FirstMerges(subwords.pretoken_N[chosen], merging.pretoken_merges)
    length_N, _ = merge_ragged(
        *arrays, merging.goal, max_subwords=merging.max_subwords, scope=merging.scope, first=stage
    )
    return length_N


def _is_last(segment_N: Int32[np.ndarray, "N"], offsets: Int[np.ndarray, "texts_and_one"]) -> Bool[np.ndarray, "N"]:
    """Which subwords lie in the last segment of their text; it may be special tokens."""
    last_R = np.where(
        np.diff(offsets) > 0, segment_N[np.maximum(offsets[1:] - 1, 0)] if len(segment_N) else NO_SEGMENT, NO_SEGMENT
    )
    return segment_N == np.repeat(last_R, np.diff(offsets))


def _fit(tokens: RaggedTokens, limit: int, truncate: bool | None, *, counts_subwords: bool = False) -> RaggedTokens:
    """Checks the limit, which counts tokens or their subwords, and cuts longer texts if that was asked for."""
    lengths = tokens.n_subwords if counts_subwords else tokens.lengths
    rows = np.flatnonzero(lengths > limit)
    if not rows.size:
        return tokens
    if truncate:
        return _cut(tokens, rows, limit, counts_subwords=counts_subwords)
    worst = int(lengths.argmax())
    advice = "count positions in tokens" if counts_subwords else "merge more"
    if truncate is None:
        advice = f"shorten it, or {advice}"
    else:
        advice = f"split it, {advice}, or ask for truncation (truncate=True, --truncate)"
    what = "subwords, which positions count here" if counts_subwords else "tokens after merging"
    raise TooLongError(
        f"Text {worst} has {lengths[worst]} {what}, special tokens included, and there is room for {limit}: {advice}."
    )


def _cut(tokens: RaggedTokens, rows: Int[np.ndarray, "rows"], limit: int, *, counts_subwords: bool) -> RaggedTokens:
    """Cuts some texts to `limit` tokens, or to as many tokens as have `limit` subwords."""
    subwords, long = tokens.subwords, tokens.take(rows)
    longest = int(long.lengths.max())
    index_M = np.arange(len(long.start_M), dtype=np.int32)
    padded = {
        name: pad_ragged(values_M, long.offsets, len(rows), longest, padding=0)
        for name, values_M in (
            ("start_BT", index_M),
            ("length_BT", long.length_M),
            ("mask_BT", np.ones(len(index_M), bool)),
        )
    }
    # each token counts as one subword here, and `index_M` gives its index
    place_BT = MergedBatch(
        start_BT=np.broadcast_to(np.arange(longest, dtype=np.int32), (len(rows), longest)) * padded["mask_BT"],
        length_BT=padded["length_BT"],
        mask_BT=padded["mask_BT"],
        n_merges=None,
    )
    text_BT = pad_ragged(subwords.text_N[long.start_M], long.offsets, len(rows), longest, padding=-1)
    kept = truncate_tokens(place_BT, text_BT, limit)
    if counts_subwords:
        n_special_B = (place_BT.mask_BT & (text_BT == -1)).sum(axis=1)
        least_B, most_B = n_special_B, kept.mask_BT.sum(axis=1)  # the most tokens that fit lie between these
        while (least_B < most_B).any():
            tried_B = (least_B + most_B + 1) // 2
            fits_B = truncate_tokens(place_BT, text_BT, tried_B).length_BT.sum(axis=1) <= limit
            least_B, most_B = np.where(fits_B, tried_B, least_B), np.where(fits_B, most_B, tried_B - 1)
        if (least_B < 1).any():
            row = rows[int(least_B.argmin())]
            raise TooLongError(
                f"The first token of text {row} alone has more than {limit} subwords: limit max_subwords."
            )
        kept = truncate_tokens(place_BT, text_BT, least_B)
    keep_M = np.ones(len(tokens.start_M), bool)
    for row, of_row, mask in zip(rows, kept.start_BT, kept.mask_BT, strict=True):
        begin, end = tokens.offsets[row : row + 2]
        keep_M[begin:end] = False
        keep_M[begin + of_row[mask]] = True
    offsets = np.append(0, np.cumsum(keep_M))[tokens.offsets]
    return RaggedTokens(subwords, tokens.start_M[keep_M], tokens.length_M[keep_M], offsets)
