"""The probe of merged words' meaning, on tiny models: rows that change nothing score as unmerged words do."""

import json
from importlib import import_module
from io import StringIO

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from dyntok_jax import DynamicDecoder
from dyntok_jax.errors import InputError
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet


@pytest.fixture(scope="module")
def meaning():
    return import_module("experiments.meaning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meaning")
    write_tiny_decoder(folder / "model", n_layers=1, max_positions=4096)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "model")
    words = {"test": {"en": "freedom dignity everyone", "de": "Freiheit Rechte"}}
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def decoder(folders):
    return DynamicDecoder.load(str(folders / "model"), None)


@pytest.mark.slow
def test_figures_are_there_for_each_method_language_and_template(meaning, folders, tmp_path):
    named = {"model": str(folders / "model"), "hypernet": str(folders / "hypernet"), "words": folders / "words.json"}
    outputs = {"json": tmp_path / "figures.json", "table": tmp_path / "table.md"}
    templates = ("definition", "is", "chat")
    options = meaning.Options(**named, **outputs, languages=("en", "de"), templates=templates)
    meaning.run(options, Console(file=StringIO()))
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    for method in ("fvt", "hypernet"):
        for language in ("en", "de"):
            for template in templates:
                assert figures[f"words_{language}_{template}"] > 0
                of = f"{method}_{language}_{template}"
                for measure in ("first_word_percent", "five_tokens_percent"):
                    assert 0 <= figures[f"{of}_{measure}"] <= 100
                assert figures[f"{of}_word_kl_nats"] > 0
    assert f"{figures['fvt_de_is_word_kl_nats']:.2f}" in outputs["table"].read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_merged_word_that_reads_like_the_unmerged_one_agrees_fully(meaning, decoder):
    prompts = meaning.word_prompts(decoder, ["dignity"], "definition", "en")
    (one,) = prompts
    # a word of one subword is its own row, so merging changes nothing
    same = meaning.continued(decoder, [meaning.replace(one, word=one.word[:1], text=_text(decoder, one))])
    rows = meaning.embed_ids(decoder.decoder, jnp.array([same[0].word]))[0]
    static = meaning.hidden_at_places(decoder.decoder, same)
    figures = meaning.measured(decoder.decoder, same, static, rows)
    assert figures["first_word_percent"] == figures["five_tokens_percent"] == 100
    assert figures["word_kl_nats"] == pytest.approx(0, abs=1e-5)
    counted = meaning.measured(decoder.decoder, same, static, rows, "subwords")
    assert counted["word_kl_nats"] == pytest.approx(0, abs=1e-5)
    other = meaning.measured(decoder.decoder, same, static, -rows)
    assert other["word_kl_nats"] > 1e-4


def test_after_a_merged_word_positions_are_those_of_the_unmerged_text(meaning, decoder):
    (prompt,) = (p for p in meaning.word_prompts(decoder, ["dignity"], "definition", "en"))
    prompt = meaning.replace(prompt, continuation=prompt.after[:2])
    rows = decoder.decoder.word_embeddings[...][jnp.array([prompt.word[0]])]
    found, other = (meaning.hidden_at_places(decoder.decoder, [prompt], rows, p)[0] for p in ("subwords", "tokens"))
    ids = [*prompt.before, prompt.word[0], *prompt.after, prompt.continuation[0]]
    step = jnp.array([[*[1] * len(prompt.before), len(prompt.word), *[1] * (len(prompt.after) + 1)]], jnp.int32)
    embeddings = meaning.embed_ids(decoder.decoder, jnp.array([ids]))
    expected = meaning.forward(decoder.decoder, embeddings, jnp.ones_like(step, bool), step)[0, len(prompt.before) :]
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-4)
    assert np.abs(other[: len(expected)] - expected).max() > 1e-3


def _text(decoder, prompt):
    return decoder.tokenizer.own.decode([*prompt.before, prompt.word[0], *prompt.after])


def test_a_prompt_falls_apart_at_its_word(meaning, decoder):
    words = ["freedom", "dignity"]
    for template in ("definition", "is", "chat"):
        for prompt in meaning.word_prompts(decoder, words, template, "en"):
            assert decoder.tokenizer.token_text(list(prompt.word)).strip().lower() in words
            assert meaning.FEWEST <= len(prompt.word) <= meaning.MOST


def test_rows_of_a_file_are_looked_up_by_subwords(meaning, tmp_path):
    path = tmp_path / "rows.safetensors"
    arrays = {"surface": np.array([[5, 6, -1], [7, 8, 9]], np.int32), "rows": np.eye(2, dtype=np.float32)}
    save_file(arrays, path)
    look_up = meaning.rows_of_file(path)
    assert look_up(np.array([[7, 8, 9]]), np.array([[True, True, True]])).tolist() == [[0, 1]]
    with pytest.raises(InputError, match=r"no row for the subwords \(5,\)"):
        look_up(np.array([[5, 6]]), np.array([[True, False]]))


def test_rows_that_are_not_named_are_refused(meaning, decoder):
    with pytest.raises(InputError, match="must be given NAME=FILE"):
        meaning.methods(decoder.decoder, decoder.embedder, ["rows.safetensors"])


def test_words_that_are_not_there_are_named(meaning, folders):
    with pytest.raises(InputError, match="no words of test in fr"):
        meaning.read_words(folders / "words.json", "test", ["fr"], None)
