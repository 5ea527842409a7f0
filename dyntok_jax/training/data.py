"""The input pipeline: batches of texts and of vocabulary pieces, in an order that a seed and a number decide.

Batch i is a pure function of the config, the texts and i, so that to resume is to go on counting, whatever threads had
prepared. grain shuffles and mixes the languages, cuts the stream in windows, and prepares batches in threads while the
step computes; in a window, texts of like length share a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import grain
import numpy as np

from dyntok_jax.embedding.languages import language_index
from dyntok_jax.errors import InputError
from dyntok_jax.merging import Share
from dyntok_jax.text.boundaries import Boundary
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.text.encode import TextEncoder
from dyntok_jax.training.batch import TrainingBatch
from dyntok_jax.training.corpus import Corpus, load_corpus, sampling_weights
from dyntok_jax.training.text_batch import make_text_batch

ShareKind = Literal["uniform", "gaussian", "fixed"]

WINDOW = 16
"""Batches a window: texts of like length are looked for among so many."""


@dataclass(frozen=True)
class DataConfig:
    """What to train on and how it is cut in batches.

    Attributes:
      texts: language code → text files (`.gz` is unpacked), one paragraph a line.
      batch_size: B, texts a batch.
      max_length: the most subwords a text, special tokens and prefix included; longer texts are cut in several.
      max_subwords: S, the most subwords a token.
      boundary: what merging may not cross.
      share: how each batch's share of the maximum reduction is drawn: uniform from 0 to 100 %, Gaussian, or fixed.
      share_mean: in %, of a Gaussian; or the fixed share.
      share_spread: in %, the standard deviation of a Gaussian.
      full_probability: how often the share is exactly 100 %, whatever else is drawn.
      language_exponent: a language is drawn in proportion to its number of texts to this power: 1 takes texts as they
        come, 0 all languages alike.
      prefix: what the model expects before a text (`query: `).
      mask_probability: how many of the text's tokens a masked-LM objective hides.
      predict_all: predict single subwords too, as the paper does.
      seed: of everything drawn.
      threads: prepare batches beside the step; 0 prepares each when it is asked for.
      prefetch: the most batches prepared ahead.
    """

    texts: dict[str, tuple[str, ...]]
    batch_size: int = 24
    max_length: int = 96
    max_subwords: int = 7
    boundary: Boundary = "pretoken"
    share: ShareKind = "uniform"
    share_mean: float = 50.0
    share_spread: float = 25.0
    full_probability: float = 0.25
    language_exponent: float = 0.3
    prefix: str = ""
    mask_probability: float = 0.0
    predict_all: bool = False
    seed: int = 0
    threads: int = 1
    prefetch: int = 4


class TrainingBatches(Iterator[TrainingBatch]):
    """An endless stream of batches that can be stopped and resumed."""

    def __init__(self, batches: grain.DatasetIterator):
        self._batches = batches

    def __next__(self) -> TrainingBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands; `json.dumps` takes it."""
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on behind the batches that had been taken when `get_state` gave this."""
        self._batches.set_state(state)

    def close(self) -> None:
        """Stops the threads."""
        self._batches.close()


def training_batches(
    config: DataConfig, tokenizer: ByteLevelTokenizer, languages: Sequence[str] = ()
) -> TrainingBatches:
    """Opens the stream of training batches.

    Args:
      config: what to train on.
      tokenizer: of the model.
      languages: codes of the hypernetwork's languages in the order of their indices; empty if it has none.

    Raises:
      InputError: texts that cannot be read, too few of them, or in a language that the hypernetwork has not.
    """
    text_encoder = TextEncoder(tokenizer)
    corpus = load_corpus(config.texts, text_encoder, longest=_room_for_text(config, text_encoder))
    if len(corpus) < config.batch_size:
        raise InputError(
            f"The texts make {len(corpus)} samples and a batch takes {config.batch_size}: give more text, or a smaller "
            "batch size."
        )
    index_of = {code: language_index(code, languages) if languages else 0 for code in corpus.languages}
    rows = mixed_rows(corpus, config)
    windows = rows.batch(WINDOW * config.batch_size, drop_remainder=True, batch_fn=np.array)
    batches = windows.seed(config.seed).random_map(partial(group_window, corpus=corpus, batch_size=config.batch_size))
    batches = grain.experimental.FlatMapMapDataset(batches, _Batches())
    batches = batches.seed(config.seed + 1).random_map(
        partial(build_batch, corpus=corpus, index_of=index_of, text_encoder=text_encoder, config=config)
    )
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
    return TrainingBatches(iter(batches.to_iter_dataset(options)))


def mixed_rows(corpus: Corpus, config: DataConfig) -> grain.MapDataset[int]:
    """Rows of the corpus without end: each language shuffled anew every time through, all of them mixed."""
    bounds = zip(corpus.first_row[:-1].tolist(), corpus.first_row[1:].tolist(), strict=True)
    parts = [
        grain.MapDataset.range(begin, end).seed(config.seed + number).shuffle().repeat()
        for number, (begin, end) in enumerate(bounds)
    ]
    return grain.MapDataset.mix(parts, sampling_weights(corpus, config.language_exponent).tolist())


def group_window(rows: np.ndarray, rng: np.random.Generator, *, corpus: Corpus, batch_size: int) -> list[np.ndarray]:
    """Cuts the rows of a window in batches of like length, in random order."""
    by_length = rows[np.argsort(corpus.length_N[rows], kind="stable")]
    batches = by_length.reshape(-1, batch_size)
    return list(batches[rng.permutation(len(batches))])


class _Batches(grain.experimental.FlatMapTransform):
    """The batches of a window one by one."""

    max_fan_out = WINDOW

    def flat_map(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        return batches


def build_batch(
    rows: np.ndarray,
    rng: np.random.Generator,
    *,
    corpus: Corpus,
    index_of: dict[str, int],
    text_encoder: TextEncoder,
    config: DataConfig,
) -> TrainingBatch:
    """The batch of these rows; what is random about it is drawn here."""
    texts = make_text_batch(
        [corpus.text(row) for row in rows.tolist()],
        np.array([index_of[corpus.language(row)] for row in rows.tolist()], np.int32),
        text_encoder,
        goal=Share(draw_share(config, rng)),
        boundary=config.boundary,
        max_subwords=config.max_subwords,
        max_length=config.max_length,
        prefix=config.prefix,
        predict_all=config.predict_all,
        mask_probability=config.mask_probability,
        rng=rng,
    )
    return TrainingBatch(texts=texts, pieces=None)


def draw_share(config: DataConfig, rng: np.random.Generator) -> float:
    """The share of the maximum reduction of one batch, in %."""
    if rng.random() < config.full_probability:
        return 100.0
    match config.share:
        case "uniform":
            return 100 * rng.random()
        case "gaussian":
            return float(np.clip(rng.normal(config.share_mean, config.share_spread), 0, 100))
        case "fixed":
            return config.share_mean
    raise InputError(f"No way to draw shares {config.share!r}: choose uniform, gaussian or fixed.")


def _room_for_text(config: DataConfig, text_encoder: TextEncoder) -> int:
    """How many subwords of a text fit beside special tokens and prefix."""
    (without,) = text_encoder.encode_static([""], prefix=config.prefix).lengths
    room = config.max_length - int(without)
    if room < 1:
        raise InputError(f"max_length {config.max_length} leaves no room for text: special tokens take {without}.")
    return room
