"""The input pipeline: batches of texts and of vocabulary pieces, in an order that depends on a seed and a number.

Batch i is a pure function of the config, the texts and i. Resuming is to continue at the next i, whatever threads had
prepared. grain shuffles, mixes the languages, and prepares batches in threads while the step computes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.options import Share
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from dyntok_jax.training.data.corpus import held_out_paragraphs, load_corpus
from dyntok_jax.training.data.data_config import DataConfig
from dyntok_jax.training.data.order import ORDER, TextRows, piece_rows
from dyntok_jax.training.data.pieces import VocabularyPieces, make_piece_batch, vocabulary_pieces
from dyntok_jax.training.data.samples import Samples
from dyntok_jax.training.data.text_batch import make_text_batch
from dyntok_jax.training.data.text_languages import index_of_language
from dyntok_jax.training.data.training_batch import PieceBatch, TextBatch, TrainingBatch
from dyntok_jax.training.data.word_texts import make_word_texts
from dyntok_jax.vocabulary import load_word_list

_ENDLESS = 1 << 32
_MADE_OF = "made_of"


class TrainingBatches(Iterator[TrainingBatch]):
    """An endless stream of batches that can be stopped and resumed."""

    def __init__(self, batches: grain.DatasetIterator, made_of: dict[str, Any]):
        """Takes an iterator, and everything that its batches depend on, as JSON types."""
        self._batches = batches
        self._made_of = made_of

    def __next__(self) -> TrainingBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """The position of the stream, as JSON types."""
        return self._batches.get_state() | {_MADE_OF: self._made_of}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues after the batches that had been taken when `get_state` returned this state.

        Raises:
          CheckpointError: it is not such a state, or one of a stream of other batches; the differences are named.
        """
        if _MADE_OF not in state:
            raise CheckpointError("This is not the state of a stream of training batches: start a new run.")
        there, here = state[_MADE_OF], self._made_of
        if differing := [name for name in sorted(there | here) if there.get(name) != here.get(name)]:
            changes = "; ".join(f"{name} was {there.get(name)!r} and is {here.get(name)!r}" for name in differing)
            raise CheckpointError(
                f"The training data has changed, so the run cannot continue: {changes}. Give the same data and "
                "options, or start a new run."
            )
        self._batches.set_state({name: value for name, value in state.items() if name != _MADE_OF})

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
      InputError: texts cannot be read, are too few, or are in a language that the hypernetwork does not have.

    >>> batches = training_batches(data_config, tokenizer)
    >>> batch = next(batches)
    >>> batch.texts.mask_BT.shape[0], batch.pieces.target_P.shape
    (4, (16,))
    >>> batches.set_state(batches.get_state())  # resumes after the first batch
    """
    builder = BatchBuilder.load(config, tokenizer, languages)
    batches = grain.MapDataset.range(_ENDLESS).seed(config.seed).random_map(builder.build)
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
    return TrainingBatches(iter(batches.to_iter_dataset(options)), made_of(builder, languages))


def validation_texts(config: DataConfig) -> dict[str, list[str]]:
    """The paragraphs held out of training, by language.

    Raises:
      ConfigError: none are held out.
      InputError: texts cannot be read.
    """
    if not config.held_out:
        raise ConfigError("No text is held out for validation: set held_out to a number of paragraphs a language.")
    return held_out_paragraphs(config.text, config.held_out)


def made_of(builder: "BatchBuilder", languages: Sequence[str]) -> dict[str, Any]:
    """Everything that the batches depend on, as JSON types."""
    corpus, word_texts = (None, {}) if builder.samples is None else (builder.samples.corpus, builder.samples.word_texts)
    return builder.config.decisive() | {
        "order": ORDER,
        "tokenizer": builder.text_encoder.tokenizer.fingerprint,
        "languages of the hypernetwork": list(languages),
        "contents of texts": corpus and corpus.fingerprint,
        "contents of words": {code: texts.fingerprint for code, texts in word_texts.items()},
    }


def load_samples(config: DataConfig, text_encoder: TextEncoder) -> Samples | None:
    """Reads the texts and lists of words of a config; None if it has neither.

    Raises:
      InputError: a source cannot be read, or there is too little text.
    """
    if not config.text and not config.words:
        return None
    longest = _room_for_text(config, text_encoder)
    corpus = None
    if config.text:
        corpus = load_corpus(config.text, text_encoder, longest=longest, n_held_out=config.held_out)
    if corpus is not None and not config.words and len(corpus) < config.batch_size:
        raise InputError(
            f"The texts have {len(corpus)} samples and a batch needs {config.batch_size}: give more text, or a smaller "
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


@dataclass(frozen=True)
class BatchBuilder:
    """Makes the batch of a step, given its number.

    Attributes:
      samples: the texts and pseudo-texts; None for training on pieces alone.
      text_rows: which of them are in a batch.
      pieces: of the vocabulary; None for training on texts alone.
      piece_rows: which of them are in a batch.
      identities: pieces as themselves, for the first batches; None without such batches.
      identity_rows: which of them are in a batch.
      language_of: the index of each language's code.
      text_encoder: of the model.
      config: what to train on.
    """

    samples: Samples | None
    text_rows: TextRows | None
    pieces: VocabularyPieces | None
    piece_rows: grain.MapDataset[np.ndarray] | None
    identities: VocabularyPieces | None
    identity_rows: grain.MapDataset[np.ndarray] | None
    language_of: dict[str, int]
    text_encoder: TextEncoder
    config: DataConfig

    @classmethod
    def load(cls, config: DataConfig, tokenizer: ByteLevelTokenizer, languages: Sequence[str]) -> "BatchBuilder":
        """Reads all sources of a config; for arguments and errors see `training_batches`."""
        codes = (*config.text, *config.words) or languages
        language_of = {code: index_of_language(code, languages) for code in codes}  # fails before any file is read
        text_encoder = TextEncoder(tokenizer)
        samples, pieces, identities = load_samples(config, text_encoder), None, None
        if config.pieces_per_batch:
            pieces = vocabulary_pieces(tokenizer, max_subwords=config.max_subwords, mode=config.pieces)
        if config.identity_batches:
            identities = vocabulary_pieces(tokenizer, max_subwords=config.max_subwords, mode="identity")
        return cls(
            samples=samples,
            text_rows=None if samples is None else TextRows(samples, config),
            pieces=pieces,
            piece_rows=None if pieces is None else piece_rows(len(pieces), config),
            identities=identities,
            identity_rows=None if identities is None else piece_rows(len(identities), config),
            language_of=language_of,
            text_encoder=text_encoder,
            config=config,
        )

    def build(self, number: int, rng: np.random.Generator) -> TrainingBatch[np.ndarray]:
        """One batch; everything random but the choice of its rows is drawn here."""
        if self.identities is not None and self.identity_rows is not None and number < self.config.identity_batches:
            return TrainingBatch(texts=None, pieces=self._pieces(self.identities, self.identity_rows[number], rng))
        texts, pieces = None, None
        if self.samples is not None and self.text_rows is not None:
            texts = self._texts(self.samples, self.text_rows(number).tolist(), rng)
        if self.pieces is not None and self.piece_rows is not None:
            pieces = self._pieces(self.pieces, self.piece_rows[number], rng)
        return TrainingBatch(texts, pieces)

    def _texts(self, samples: Samples, rows: list[int], rng: np.random.Generator) -> TextBatch[np.ndarray]:
        config = self.config
        return make_text_batch(
            [samples.text(row) for row in rows],
            np.array([self.language_of[samples.language(row)] for row in rows], np.int32),
            self.text_encoder,
            config,
            goal=Share(draw_share(config, rng)),
            rng=rng,
        )

    def _pieces(
        self, pieces: VocabularyPieces, rows_P: np.ndarray | None, rng: np.random.Generator
    ) -> PieceBatch[np.ndarray]:
        assert rows_P is not None, "a data set without a filter has all its elements"
        # a piece belongs to no language, and must be predicted well in each
        known = np.array(sorted(set(self.language_of.values())) or [0], np.int32)
        return make_piece_batch(
            pieces,
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
    """How many subwords of a text fit in addition to special tokens and prefix."""
    (without,) = text_encoder.encode_static([""], prefix=config.prefix or "").lengths
    room = config.max_length - int(without)
    if room < 1:
        raise InputError(
            f"max_length {config.max_length} leaves no room for text: special tokens and prefix take {without}."
        )
    return room
