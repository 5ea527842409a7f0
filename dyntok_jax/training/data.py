"""The input pipeline: batches of texts and of vocabulary pieces, in an order that a seed and a number decide.

Batch i is a pure function of the config, the texts and i, so that to resume is to go on counting, whatever threads had
prepared. grain shuffles and mixes the languages, cuts the stream in windows, and prepares batches in threads while the
step computes; in a window, texts of like length share a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
from dyntok_jax.text.word_list import load_word_list
from dyntok_jax.training.batch import TrainingBatch
from dyntok_jax.training.corpus import load_corpus
from dyntok_jax.training.samples import Samples
from dyntok_jax.training.text_batch import make_text_batch
from dyntok_jax.training.word_texts import make_word_texts

ShareKind = Literal["uniform", "gaussian", "fixed"]

WINDOW = 16
"""Batches a window: texts of like length are looked for among so many."""
WORDS_SHARE = 0.5
"""The part of a language's samples that pseudo-texts make up where a config does not say."""


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
      words: language code → lists of words to make pseudo-texts of: files of `word<TAB>weight`, or `wordfreq:ar`.
      words_share: language code → what part of the language's samples are pseudo-texts, 0.5 where not given; of a
        language without texts all are. They do not change how often the language is drawn.
      words_exponent: a word is drawn in proportion to its weight to this power.
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
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    words_share: dict[str, float] = field(default_factory=dict)
    words_exponent: float = 0.7


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
    samples = load_samples(config, text_encoder)
    index_of = {code: language_index(code, languages) if languages else 0 for code in samples.languages}
    rows = mixed_rows(samples, config)
    windows = rows.batch(WINDOW * config.batch_size, drop_remainder=True, batch_fn=np.array)
    batches = windows.seed(config.seed).random_map(partial(group_window, samples=samples, batch_size=config.batch_size))
    batches = grain.experimental.FlatMapMapDataset(batches, _Batches())
    batches = batches.seed(config.seed + 1).random_map(
        partial(build_batch, samples=samples, index_of=index_of, text_encoder=text_encoder, config=config)
    )
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
    return TrainingBatches(iter(batches.to_iter_dataset(options)))


def load_samples(config: DataConfig, text_encoder: TextEncoder) -> Samples:
    """Reads the texts and lists of words of a config.

    Raises:
      InputError: something cannot be read, or there is not enough of it.
    """
    longest = _room_for_text(config, text_encoder)
    corpus = load_corpus(config.texts, text_encoder, longest=longest) if config.texts or not config.words else None
    if corpus is not None and not config.words and len(corpus) < config.batch_size:
        raise InputError(
            f"The texts make {len(corpus)} samples and a batch takes {config.batch_size}: give more text, or a smaller "
            "batch size."
        )
    word_texts = {
        code: make_word_texts(
            code,
            load_word_list(sources),
            text_encoder,
            exponent=config.words_exponent,
            longest=longest,
            seed=config.seed + number,
        )
        for number, (code, sources) in enumerate(config.words.items())
    }
    return Samples(corpus, word_texts)


def mixed_rows(samples: Samples, config: DataConfig) -> grain.MapDataset[int]:
    """Rows without end: each language's texts shuffled anew every time through, pseudo-texts always new, all mixed."""
    parts, weights = [], []
    for number, code in enumerate(samples.languages):
        texts, words = samples.text_rows(code), samples.word_rows(code)
        words_share = (config.words_share.get(code, WORDS_SHARE) if len(texts) else 1.0) if len(words) else 0.0
        weight = samples.weight(code) ** config.language_exponent
        if words_share < 1:
            parts.append(_dataset(texts).seed(config.seed + number).shuffle().repeat())
            weights.append(weight * (1 - words_share))
        if words_share > 0:
            parts.append(_dataset(words))
            weights.append(weight * words_share)
    return grain.MapDataset.mix(parts, (np.array(weights) / sum(weights)).tolist())


def _dataset(rows: range) -> grain.MapDataset[int]:
    return grain.MapDataset.range(rows.start, rows.stop, rows.step)


def group_window(rows: np.ndarray, rng: np.random.Generator, *, samples: Samples, batch_size: int) -> list[np.ndarray]:
    """Cuts the rows of a window in batches of like length, in random order."""
    by_length = rows[np.argsort(samples.lengths(rows), kind="stable")]
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
    samples: Samples,
    index_of: dict[str, int],
    text_encoder: TextEncoder,
    config: DataConfig,
) -> TrainingBatch:
    """The batch of these rows; what is random about it is drawn here."""
    texts = make_text_batch(
        [samples.text(row) for row in rows.tolist()],
        np.array([index_of[samples.language(row)] for row in rows.tolist()], np.int32),
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
