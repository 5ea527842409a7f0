"""Text and pieces to validate on: merged fully, each in its language, known again by a digest."""

import json

import jax
import numpy as np
import pytest

from dyntok_jax.errors import InputError
from dyntok_jax.training.data import DataConfig, held_out


@pytest.fixture
def aligned(tmp_path) -> str:
    """Five paragraphs of English and German, the fourth without German."""
    rows = [{"en": f"the house number {n}", "de": f"das Haus Nummer {n}"} for n in range(5)]
    del rows[3]["de"]
    file = tmp_path / "aligned.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def data_of(**options) -> DataConfig:
    return DataConfig(
        **{"text": {"de": ("de.txt",)}, "batch_size": 3, "max_length": 48, "pieces_per_batch": 0} | options
    )


def test_files_to_validate_on_are_merged_fully_and_know_their_language(aligned, tmp_path, text_encoder):
    plain = tmp_path / "plain.txt"
    plain.write_text("das Haus\n\ndie Welt\n", encoding="utf-8")
    batches, translations = held_out.batches_of_files(
        data_of(validation=(aligned, f"de={plain}"), validation_texts=4), text_encoder, ("fr", "en", "de")
    )
    assert [len(batch.static_BL) for batch in batches] == [3, 1, 3, 1, 2]
    assert all(batch.mask_BT.sum() < batch.static_mask_BL.sum() for batch in batches)
    (of_aligned,) = translations
    for language, found in ((1, of_aligned["en"]), (2, of_aligned["de"]), (2, batches[4:])):
        for batch in found:
            is_form_P = batch.forms.is_subword_PS.any(axis=1)
            assert is_form_P.any()
            assert set(batch.forms.language_P[is_form_P].tolist()) == {language}


def test_each_aligned_file_is_a_collection_of_its_own(aligned, tmp_path, text_encoder):
    other = tmp_path / "other.jsonl"
    other.write_text('{"en": "a dog", "fr": "un chien"}\n', encoding="utf-8")
    _, translations = held_out.batches_of_files(data_of(validation=(aligned, str(other))), text_encoder)
    assert [sorted(collection) for collection in translations] == [["de", "en"], ["en", "fr"]]


def test_pieces_to_validate_on_are_in_the_languages_of_the_texts(text_encoder, tokenizer):
    batches = held_out.full_batches(["das Haus", "die Welt"], data_of(), text_encoder)
    data = data_of(pieces_per_batch=16)
    (found,) = held_out.with_pieces(batches, data, tokenizer, ("en", "de"))
    assert set(found.pieces.forms.language_P.tolist()) == {1}
    (again,) = held_out.with_pieces(batches, data, tokenizer, ("en", "de"))
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(again)))
    (without,) = held_out.with_pieces(batches, data_of(), tokenizer)
    assert without.pieces is None


def test_a_digest_tells_apart_what_is_validated_on(text_encoder, tokenizer):
    def digest(texts: list[str], language: int = 1, **options) -> str:
        data = data_of(**options)
        batches = held_out.full_batches(texts, data, text_encoder, language=language)
        return held_out.digest_of(held_out.with_pieces(batches, data, tokenizer))

    texts = ["das Haus", "die Welt"]
    assert digest(texts) == digest(texts)
    others = [digest(texts[:1]), digest(texts[::-1]), digest(texts, 2), digest(texts, pieces_per_batch=4)]
    assert len({digest(texts), *others}) == 5


def test_a_code_before_a_file_of_many_languages_is_refused(aligned, text_encoder):
    with pytest.raises(InputError, match="names its languages in its fields: leave de= out"):
        held_out.batches_of_files(data_of(validation=(f"de={aligned}",)), text_encoder)
