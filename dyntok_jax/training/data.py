"""The input pipeline: batches of texts and of vocabulary pieces, in an order that a seed and a number decide.

Batch i is a pure function of the config, the texts and i, so that to resume is to go on counting, whatever threads had
prepared. grain shuffles and mixes the languages, cuts the stream in windows, and prepares batches in threads while the
step computes; in a window, texts of like length share a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import grain
import numpy as np

from dyntok_jax.embedding.languages import language_index
from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.merging import Share
from dyntok_jax.text.byte_level import ByteLevelTokenizer
from dyntok_jax.text.encode import TextEncoder
from dyntok_jax.text.word_list import load_word_list
from dyntok_jax.training.batch import PieceBatch, TextBatch, TrainingBatch
from dyntok_jax.training.corpus import held_out_paragraphs, load_corpus
from dyntok_jax.training.data_config import DataConfig
from dyntok_jax.training.pieces import VocabularyPieces, make_piece_batch, vocabulary_pieces
from dyntok_jax.training.samples import Samples
from dyntok_jax.training.text_batch import make_text_batch
from dyntok_jax.training.word_texts import make_word_texts

WINDOW = 16
"""Batches a window: texts of like length are looked for among so many."""
WORDS_SHARE = 0.5
"""The part of a language's samples that pseudo-texts make up where a config does not say."""


ORDER = 1
"""Raised when a change here or in what it calls makes other batches of the same config."""
MADE_OF = "made_of"
NOT_DECISIVE = ("texts", "words", "threads", "prefetch")
"""Fields of a config that do not decide about the batches; of texts and words their contents do, not their names."""


class TrainingBatches(Iterator[TrainingBatch]):
    """An endless stream of batches that can be stopped and resumed."""

    def __init__(self, batches: grain.DatasetIterator, made_of: dict[str, Any]):
        """Takes an iterator, and all that decides about its batches, as JSON holds it."""
        self._batches = batches
        self._made_of = made_of

    def __next__(self) -> TrainingBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands; `json.dumps` takes it."""
        return self._batches.get_state() | {MADE_OF: self._made_of}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on behind the batches that had been taken when `get_state` gave this.

        Raises:
          CheckpointError: it is no such state, or that of a stream of other batches; what differs is named.
        """
        if MADE_OF not in state:
            raise CheckpointError("This is no state of a stream of training batches: start anew.")
        there, here = state[MADE_OF], self._made_of
        if differing := [name for name in sorted(there | here) if there.get(name) != here.get(name)]:
            told = "; ".join(f"{name} was {there.get(name)!r} and is {here.get(name)!r}" for name in differing)
            raise CheckpointError(
                f"The training data has changed, so the run cannot go on as it would have: {told}. Give the same data "
                "and options, or start anew."
            )
        self._batches.set_state({name: value for name, value in state.items() if name != MADE_OF})

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
    builder = BatchBuilder.load(config, tokenizer, languages)
    parts = []
    if builder.samples is not None:
        parts.append(text_rows(builder.samples, config))
    if builder.pieces is not None:
        parts.append(piece_rows(len(builder.pieces), config))
    length = min(map(len, parts))
    rows = grain.experimental.ZipMapDataset([part.slice(slice(length)) for part in parts])
    batches = rows.seed(config.seed + 1).random_map(builder.build)
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
    return TrainingBatches(iter(batches.to_iter_dataset(options)), made_of(builder, languages))


def validation_texts(config: DataConfig) -> dict[str, list[str]]:
    """The paragraphs that are held out of training, by language; no sample is made of them.

    Raises:
      ConfigError: none are held out.
      InputError: texts cannot be read.
    """
    if not config.held_out:
        raise ConfigError("No text is held out for validation: set held_out to a number of paragraphs a language.")
    return held_out_paragraphs(config.texts, config.held_out)


def made_of(builder: "BatchBuilder", languages: Sequence[str]) -> dict[str, Any]:
    """All that decides about the batches, as JSON holds it."""
    config = {name: value for name, value in asdict(builder.config).items() if name not in NOT_DECISIVE}
    corpus, word_texts = (None, {}) if builder.samples is None else (builder.samples.corpus, builder.samples.word_texts)
    return config | {
        "order": ORDER,
        "tokenizer": builder.text_encoder.tokenizer.fingerprint,
        "languages of the hypernetwork": list(languages),
        "contents of texts": corpus and corpus.fingerprint,
        "contents of words": {code: texts.fingerprint for code, texts in word_texts.items()},
    }


def load_samples(config: DataConfig, text_encoder: TextEncoder) -> Samples | None:
    """Reads the texts and lists of words of a config; None if it has neither.

    Raises:
      InputError: something cannot be read, or there is not enough of it.
    """
    if not config.texts and not config.words:
        return None
    longest = _room_for_text(config, text_encoder)
    corpus = None
    if config.texts:
        corpus = load_corpus(config.texts, text_encoder, longest=longest, n_held_out=config.held_out)
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


def text_rows(samples: Samples, config: DataConfig) -> grain.MapDataset[np.ndarray]:
    """The rows of each batch of texts, without end."""
    rows = mixed_rows(samples, config)
    windows = rows.batch(WINDOW * config.batch_size, drop_remainder=True, batch_fn=np.array)
    groups = windows.seed(config.seed).random_map(partial(group_window, samples=samples, batch_size=config.batch_size))
    return grain.experimental.FlatMapMapDataset(groups, _Batches())


def piece_rows(n_pieces: int, config: DataConfig) -> grain.MapDataset[np.ndarray]:
    """The rows of each batch of pieces, without end: all of them shuffled anew every time through."""
    rows = grain.MapDataset.range(n_pieces).seed(config.seed).shuffle().repeat()
    return rows.batch(config.pieces_per_batch, drop_remainder=True, batch_fn=np.array)


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


@dataclass(frozen=True)
class BatchBuilder:
    """Makes the batch of a step from rows of texts, of pieces, or of both.

    Attributes:
      samples: the texts and pseudo-texts; None where only pieces are wanted.
      pieces: of the vocabulary; None where none are wanted.
      language_of: the index of each language's code.
      text_encoder: of the model.
      config: what to train on.
    """

    samples: Samples | None
    pieces: VocabularyPieces | None
    language_of: dict[str, int]
    text_encoder: TextEncoder
    config: DataConfig

    @classmethod
    def load(cls, config: DataConfig, tokenizer: ByteLevelTokenizer, languages: Sequence[str]) -> "BatchBuilder":
        """Reads all that a config names; for arguments and errors see `training_batches`."""
        text_encoder = TextEncoder(tokenizer)
        samples, pieces = load_samples(config, text_encoder), None
        if config.pieces_per_batch:
            pieces = vocabulary_pieces(tokenizer, max_subwords=config.max_subwords, mode=config.pieces)
        codes = languages if samples is None else samples.languages
        language_of = {code: language_index(code, languages) if languages else 0 for code in codes}
        return cls(samples, pieces, language_of, text_encoder, config)

    def build(self, rows: tuple[np.ndarray, ...], rng: np.random.Generator) -> TrainingBatch:
        """The batch of these rows; what is random about it is drawn here."""
        remaining = iter(rows)
        return TrainingBatch(
            texts=None if self.samples is None else self._texts(next(remaining).tolist(), rng),
            pieces=None if self.pieces is None else self._pieces(next(remaining), rng),
        )

    def _texts(self, rows: list[int], rng: np.random.Generator) -> TextBatch:
        config = self.config
        return make_text_batch(
            [self.samples.text(row) for row in rows],
            np.array([self.language_of[self.samples.language(row)] for row in rows], np.int32),
            self.text_encoder,
            goal=Share(draw_share(config, rng)),
            boundary=config.boundary,
            max_subwords=config.max_subwords,
            max_length=config.max_length,
            prefix=config.prefix,
            predict_all=config.predict_all,
            mask_probability=config.mask_probability,
            rng=rng,
        )

    def _pieces(self, rows_P: np.ndarray, rng: np.random.Generator) -> PieceBatch:
        # a piece belongs to no language, and must be right in each
        known = np.array(sorted(set(self.language_of.values())) or [0], np.int32)
        return make_piece_batch(
            self.pieces,
            rows_P,
            rng.choice(known, len(rows_P)),
            random_probability=self.config.pieces_random,
            rng=rng,
        )


def draw_share(config: DataConfig, rng: np.random.Generator) -> float:
    """The share of the maximum reduction of one batch, in %."""
    if rng.random() < config.full_probability:
        return 100.0
    match config.share:
        case "uniform":
            return 100 * rng.random()
        case "gaussian":
            return float(np.clip(rng.normal(config.share_mean, config.share_spread), 0, 100))
    return config.share_mean


def _room_for_text(config: DataConfig, text_encoder: TextEncoder) -> int:
    """How many subwords of a text fit beside special tokens and prefix."""
    (without,) = text_encoder.encode_static([""], prefix=config.prefix).lengths
    room = config.max_length - int(without)
    if room < 1:
        raise InputError(f"max_length {config.max_length} leaves no room for text: special tokens take {without}.")
    return room
