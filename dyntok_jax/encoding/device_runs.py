"""Batches of texts through the one program on the device: rooms that are large enough, and results fetched late."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Lock

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Int32

from dyntok_jax.embedding import DeviceCache, TokenEmbedder, empty_device_cache
from dyntok_jax.encoding.on_device import (
    OnDeviceBatch,
    OnDeviceMerging,
    OnDeviceModel,
    Room,
    encode_subwords,
)
from dyntok_jax.errors import InputError
from dyntok_jax.merging import count_fewest, count_mergeable, segments_to_merge
from dyntok_jax.models import Encoder, SentenceHead
from dyntok_jax.options import Budget, Merging, Share
from dyntok_jax.sharding import constrain_by_rules, data_parts, shard_batch
from dyntok_jax.text import (
    BATCH_BUCKETS,
    SURFACE_BUCKETS,
    RaggedSubwords,
    bucket,
    divided_buckets,
    group_by_length,
    pad_batch,
)
from dyntok_jax.types import AnyArray, SubwordBatch

IN_FLIGHT = 2
"""Batches given to the device before the first of them is looked at."""
LEAST_FORMS, LEAST_LOOPED = 8, 256
"""The smallest rooms: new tokens a sequence, and subwords that merge step by step."""
CACHE_ROWS = 1 << 15
"""The most rows of the cache on the device."""


@dataclass(frozen=True)
class OnDeviceTexts:
    """What `DeviceRuns.encode` returns.

    Attributes:
      length_N: length of the token that begins at each subword; 0 elsewhere.
      pending: the rows of each batch and the program's result for them, still on the device.
      padded_tokens: all tokens that the model read, padding included.
      n_forms: distinct new tokens of each batch, summed.
      n_predicted: those of them whose row was not in the cache.
    """

    length_N: Int32[np.ndarray, "N"]
    pending: list[tuple[Int[np.ndarray, "_"], Array]]
    padded_tokens: int
    n_forms: int
    n_predicted: int


@dataclass(frozen=True)
class _Run:
    """A batch that the device works on."""

    rows: Int[np.ndarray, "rows"]
    batch: SubwordBatch
    language_B: Int32[AnyArray, "B"]
    room: Room
    most: Room
    out: OnDeviceBatch


class DeviceRuns:
    """Runs `encode_subwords` on batch after batch, and again where the room was too small.

    The rooms that a shape of batches needed are remembered, so a stream of like texts soon runs once a batch. With a
    hypernetwork, predicted rows are cached on the device, at most as many as on the host. Threads may share one.
    """

    def __init__(self, encoder: Encoder, embedder: TokenEmbedder, mesh: Mesh | None):
        self._encoder, self._embedder, self._mesh = encoder, embedder, mesh
        self._rooms: dict[tuple, Room] = {}
        self._lock = Lock()  # of the cache, which each run takes and replaces
        self._cache = self._empty_cache()

    def encode(
        self,
        subwords: RaggedSubwords,
        language_N: Int32[np.ndarray, "texts"],
        merging: Merging,
        head: SentenceHead | None,
        *,
        batch_size: int,
        on_progress: Callable[[int], None] | None,
    ) -> OnDeviceTexts:
        """Merges, embeds and encodes texts.

        Args:
          subwords: of all texts.
          language_N: of each text.
          merging: how, resolved.
          head: None for hidden states.
          batch_size: texts a batch, as they come; in scope `example` those of like length.
          on_progress: called with the number of texts of each batch done.

        Raises:
          InputError: what is asked for needs the host.
        """
        self._check(merging)
        model = OnDeviceModel(self._encoder, self._embedder.predictor, head, self._kept())
        on_device = OnDeviceMerging.of(merging)
        to_merge = replace(subwords, segment_N=segments_to_merge(subwords, merging))
        length_N, pending, counts = np.zeros(len(subwords.ids_N), np.int32), [], np.zeros(3, int)
        running: deque[_Run] = deque()

        def finish(run: _Run) -> None:
            n_predicted, n_batch = None, len(run.batch.ids_BL)
            while (room := run.room.grown(run.out.needed, run.most)) != run.room:
                if replace(run.room, predicted=room.predicted) == room:  # later runs find what this one predicted
                    n_predicted = n_predicted or int(run.out.needed.predicted)
                run = replace(run, room=room, out=self._run(model, on_device, run.batch, run.language_B, room))
            needed = run.out.needed
            self._remember(run, merging)
            counts[:] += (
                n_batch * run.room.tokens,
                int(needed.forms),
                n_predicted or int(needed.predicted),
            )
            merged = run.out.merged
            start_BT, size_BT, mask_BT = (
                np.asarray(each)[: len(run.rows)] for each in (merged.start_BT, merged.length_BT, merged.mask_BT)
            )
            length_N[(subwords.offsets[run.rows][:, None] + start_BT)[mask_BT]] = size_BT[mask_BT]
            pending.append((run.rows, run.out.result))
            if on_progress is not None:
                on_progress(len(run.rows))

        for rows in _batches(subwords, merging, batch_size):
            running.append(self._begin(model, on_device, to_merge, rows, language_N[rows], merging))
            if len(running) == IN_FLIGHT:
                finish(running.popleft())
        while running:
            finish(running.popleft())
        return OnDeviceTexts(length_N, pending, *counts.tolist())

    def _empty_cache(self) -> DeviceCache | None:
        embedder = self._embedder
        if embedder.cache is None:
            return None
        n_rows, width = min(CACHE_ROWS, embedder.cache.capacity), embedder.source_VD.shape[1]
        cache = empty_device_cache(n_rows, 1 + embedder.max_subwords, width, embedder.source_VD.dtype)
        return constrain_by_rules(cache, self._mesh)

    def _check(self, merging: Merging) -> None:
        reason = None
        if merging.is_static:
            reason = "static tokenization merges nothing"
        elif merging.merge_list is not None:
            reason = "a merge list is applied on the host"
        elif self._embedder.surface == "retokenized":
            reason = "surface forms are retokenized on the host"
        if reason is not None:
            raise InputError(f"The program on the device cannot do this ({reason}): leave on_device out.")

    def _kept(self) -> Int32[np.ndarray, "K"] | None:
        if not self._embedder.predict_all or self._embedder.hypernet is None:
            return None
        return np.array(sorted(self._embedder.tokenizer.added_ids), np.int32)

    def _begin(self, model, on_device, to_merge, rows, language_B, merging) -> _Run:
        n_batch = bucket(len(rows), divided_buckets(BATCH_BUCKETS, data_parts(self._mesh)))
        length = bucket(int(to_merge.lengths[rows].max()))
        batch = pad_batch(to_merge, rows, pad_id=self._embedder.tokenizer.pad_id, length=length, n_batch=n_batch)
        room, most = self._first_room(batch, merging)
        batch, language_B = jax.tree.map(
            lambda values: shard_batch(values, self._mesh), (batch, np.pad(language_B, (0, n_batch - len(rows))))
        )
        return _Run(rows, batch, language_B, room, most, self._run(model, on_device, batch, language_B, room))

    def _run(self, model: OnDeviceModel, on_device: OnDeviceMerging, batch, language_B, room: Room) -> OnDeviceBatch:
        with self._lock:
            cache, self._cache = self._cache, None  # donated: gone, if the program does not end
            try:
                out = encode_subwords(model, batch, language_B, on_device, cache, room=room, mesh=self._mesh)
            except BaseException:
                self._cache = self._empty_cache()
                raise
            self._cache = out.cache
        return out._replace(cache=None)

    def _remember(self, run: _Run, merging: Merging) -> None:
        """Room for the next batches of this shape: all that was ever needed, and predictions as for this one."""
        key, n_batch = self._key(run.batch, merging), len(run.batch.ids_BL)
        known = self._rooms.get(key, run.room)
        predicted = forms = max(known.forms, run.room.forms)
        if self._cache is not None:  # a fourth more than this batch needed, in one of four sizes
            sizes = [n_batch * max(1, forms // n_batch >> halvings) for halvings in (3, 2, 1)]
            least = 1.25 * int(run.out.needed.predicted)
            predicted = next((size for size in sizes if size >= least), forms)
        looped = max(known.looped, run.room.looped)
        self._rooms[key] = replace(run.room, forms=forms, predicted=predicted, looped=looped)

    def _first_room(self, batch: SubwordBatch[np.ndarray], merging: Merging) -> tuple[Room, Room]:
        """Room that is likely to suffice, and the most that can be needed."""
        n_batch, length = batch.ids_BL.shape
        longest = np.asarray(min(merging.max_subwords or length, length), np.int32)
        n_tokens = min(length, self._encoder.config.max_tokens)
        width = self._embedder.max_subwords
        if self._embedder.hypernet is None:  # the mean takes any length
            width = bucket(int(longest), SURFACE_BUCKETS[1:])
        n_group = length if merging.scope == "example" else n_batch * length
        most = Room(n_tokens, n_batch * n_tokens, n_batch * n_tokens, n_group, width)
        known = self._rooms.get(self._key(batch, merging))
        if known is None:
            n_forms = min(n_tokens, max(LEAST_FORMS, n_tokens // 8))
            known = Room(n_tokens, n_batch * n_forms, n_batch * n_forms, min(LEAST_LOOPED, n_group), width)
        tokens = bucket(max(1, _likely_tokens(batch, merging, longest)))
        return replace(known, tokens=min(tokens, n_tokens)), most

    @staticmethod
    def _key(batch: SubwordBatch, merging: Merging) -> tuple:
        return (*batch.ids_BL.shape, merging)


def _batches(subwords: RaggedSubwords, merging: Merging, batch_size: int) -> Iterator[Int[np.ndarray, "rows"]]:
    """Texts that are merged together, and so encoded together."""
    if merging.scope == "example":
        yield from group_by_length(subwords.lengths, batch_size)
    else:
        for at in range(0, len(subwords), batch_size):
            yield np.arange(at, min(at + batch_size, len(subwords)))


def _likely_tokens(batch: SubwordBatch[np.ndarray], merging: Merging, longest: Int32[np.ndarray, ""]) -> int:
    """Tokens of the longest sequence if every segment shrinks as far as the goal and the limit allow."""
    n_subwords_B = batch.mask_BL.sum(axis=1)
    reducible_B = count_mergeable(batch.segment_BL, batch.mask_BL)
    reducible_B = reducible_B - count_fewest(batch.segment_BL, batch.mask_BL, longest)
    share = merging.goal.percent / 100 if isinstance(merging.goal, Share) else 0
    n_tokens = int(np.ceil(n_subwords_B - share * reducible_B).max())
    return min(n_tokens, merging.goal.tokens) if isinstance(merging.goal, Budget) else n_tokens
