"""Texts and pieces to validate on, from files or held out of the training texts, in fully merged batches."""

import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from dyntok_jax.errors import InputError
from dyntok_jax.options import Share
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder, read_aligned, read_lines
from dyntok_jax.training.data.data_config import DataConfig
from dyntok_jax.training.data.pieces import make_piece_batch, vocabulary_pieces
from dyntok_jax.training.data.text_batch import make_text_batch
from dyntok_jax.training.data.text_languages import index_of_language
from dyntok_jax.training.data.training_batch import TextBatch, TrainingBatch
from dyntok_jax.training.data.training_data import (
    validation_texts,
)
from dyntok_jax.training.data.written_options import language_and_file

PIVOT = "en"
"""The language in which retrieval looks for translations."""

ALIGNED_SUFFIXES = (".jsonl", ".jsonl.gz")


def batches_of_files(
    data: DataConfig, text_encoder: TextEncoder, languages: Sequence[str] = ()
) -> tuple[list[TextBatch], list[dict[str, list[TextBatch]]]]:
    """Reads text to validate on, and merges it fully.

    Args:
      data: `validation` names the files; the first `validation_texts` texts are read of each, or of each language of an
        aligned file. Batches are made like training batches, but without share and seed.
      text_encoder: of the model.
      languages: codes of the hypernetwork's languages in the order of their indices; empty if it has none.

    Returns:
      All texts in batches; and those of each aligned file with English, by language, all in the same order.

    Raises:
      InputError: a file cannot be read, holds no text, or is in a language that the hypernetwork does not have.

    >>> path = folder / "aligned.jsonl"
    >>> _ = path.write_text('{"de": "Alle Menschen sind frei.", "en": "All human beings are free."}')
    >>> batches, (translations,) = batches_of_files(DataConfig(validation=(str(path),)), text_encoder)
    >>> len(batches), sorted(translations), translations["de"][0].mask_BT.sum(axis=1)
    (2, ['de', 'en'], array([7]))
    """
    batches, translations, limit = [], [], data.validation_texts

    def batches_of(texts: Sequence[str], code: str) -> list[TextBatch]:
        return full_batches(texts, data, text_encoder, language=index_of_language(code, languages))

    for given in data.validation:
        code, file = language_and_file(given)
        if not file.endswith(ALIGNED_SUFFIXES):
            batches += batches_of([line for line in read_lines(file) if line.strip()][:limit], code)
            continue
        if file != given:
            raise InputError(f"{file} names its languages in its fields: leave {code}= out.")
        columns = read_aligned(file)
        complete = [row for row in zip(*columns.values(), strict=True) if None not in row][:limit]
        if not complete:
            raise InputError(f"{file} has no paragraph in all of its languages ({' '.join(columns)}).")
        rows = zip(*complete, strict=True)
        of_file = {code: batches_of(texts, code) for code, texts in zip(columns, rows, strict=True)}
        batches += [batch for of_language in of_file.values() for batch in of_language]
        if PIVOT in of_file and len(of_file) > 1:
            translations.append(of_file)
    return batches, translations


def batches_held_out(data: DataConfig, text_encoder: TextEncoder, languages: Sequence[str] = ()) -> list[TextBatch]:
    """The paragraphs held out of the training texts, merged fully.

    Raises:
      ConfigError: none are held out.
      InputError: texts cannot be read, or are in a language that the hypernetwork does not have.

    >>> (held_out,) = batches_held_out(data_config, text_encoder)  # 4 paragraphs of its German text
    >>> is_shorter_B = held_out.mask_BT.sum(axis=1) < held_out.static_mask_BL.sum(axis=1)
    >>> is_shorter_B.tolist()
    [True, True, True, True]
    """
    return [
        batch
        for code, texts in validation_texts(data).items()
        for batch in full_batches(texts, data, text_encoder, language=index_of_language(code, languages))
    ]


def digest_of(batches: Sequence[TrainingBatch]) -> str:
    """A digest of the contents of batches, by which a resumed run checks that it validates on the same data.

    >>> len(digest_of([training_batch])), digest_of([training_batch]) == digest_of([])
    (16, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(list(batches)):
        digest.update(repr((leaf.shape, leaf.dtype)).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def full_batches(
    texts: Sequence[str], data: DataConfig, text_encoder: TextEncoder, *, language: int = 0
) -> list[TextBatch]:
    """Batches of fully merged texts; the last one may be smaller.

    Args:
      texts: to validate on.
      data: how training batches are made; share and seed are not used.
      text_encoder: of the model.
      language: the hypernetwork's index of their language.
    """
    return [
        make_text_batch(
            texts[at : at + data.batch_size],
            np.full(len(texts[at : at + data.batch_size]), language, np.int32),
            text_encoder,
            data,
            goal=Share(100),
            rng=np.random.default_rng(at),
        )
        for at in range(0, len(texts), data.batch_size)
    ]


def with_pieces(
    batches: Sequence[TextBatch], data: DataConfig, tokenizer: ByteLevelTokenizer, languages: Sequence[str] = ()
) -> list[TrainingBatch]:
    """Batches to validate on, each with as many vocabulary pieces as a training batch; always the same pieces.

    As in training, a piece is in any of the languages of the texts.

    >>> (complete,) = with_pieces(batches_held_out(data_config, text_encoder), data_config, tokenizer)
    >>> complete.pieces.target_P.shape
    (16,)
    """
    if not data.pieces_per_batch:
        return [TrainingBatch(batch, None) for batch in batches]
    pieces = vocabulary_pieces(tokenizer, max_subwords=data.max_subwords, mode=data.pieces)
    rng = np.random.default_rng(0)
    known = sorted({index_of_language(code, languages) for code in (*data.text, *data.words) or languages}) or [0]
    return [
        TrainingBatch(
            batch,
            make_piece_batch(
                pieces,
                rng.integers(0, len(pieces), data.pieces_per_batch),
                rng.choice(np.array(known, np.int32), data.pieces_per_batch),
                random_probability=0.0,
                rng=rng,
            ),
        )
        for batch in batches
    ]
