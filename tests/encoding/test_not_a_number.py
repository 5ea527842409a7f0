"""Numbers that are none are never handed on as embeddings."""

import numpy as np
import pytest
from jax import numpy as jnp

from dyntok_jax import DynamicDecoder, DynamicEncoder
from dyntok_jax.cli import main
from dyntok_jax.convert.bert_checkpoint import save_encoder
from dyntok_jax.decoding import hidden_queries
from dyntok_jax.embedding import EmbeddingCache, TokenEmbedder
from dyntok_jax.errors import CheckpointError, NotANumberError
from tests.support.tiny import WIDTH, write_tiny_decoder, write_tiny_encoder, write_tiny_hypernet

TEXTS = ["All human beings", "are born free"]


@pytest.fixture
def folder(tmp_path):
    write_tiny_encoder(tmp_path / "model")
    return tmp_path / "model"


def spoil(parameter, value=np.nan):
    parameter[...] = parameter[...].at[..., 0].set(value)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("goal", [None, "merged"])
@pytest.mark.parametrize("pooling", ["auto", "first", "none"])
def test_14_14_an_encoder_that_computes_no_numbers_refuses(folder, value, goal, pooling):
    encoder = DynamicEncoder.load(folder)
    spoil(encoder.encoder.layers.ffn_norm.scale, value)
    options = {"goal": None} if goal is None else {}
    with pytest.raises(NotANumberError, match="computes for text 0 is NaN or infinite"):
        encoder.encode(TEXTS, pooling=pooling, **options)


def test_14_14_a_hypernetwork_that_predicts_no_numbers_refuses_and_caches_nothing(folder, tmp_path):
    write_tiny_hypernet(tmp_path / "hypernet")
    encoder = DynamicEncoder.load(folder, tmp_path / "hypernet")
    _, hypernet = encoder.embedder.hypernet
    spoil(hypernet.output_head.linear.bias)
    with pytest.raises(NotANumberError, match=r"predicted for the token of subwords \[\d+, \d+"):
        encoder.encode(TEXTS)
    assert len(encoder.cache) == 0


def test_14_14_fvt_on_a_table_without_numbers_refuses(folder):
    sound = DynamicEncoder.load(folder, None)
    embedder = TokenEmbedder(sound.tokenizer, sound.encoder.word_embeddings[...].at[:, 0].set(np.nan))
    with pytest.raises(NotANumberError, match="predicted for the token"):
        DynamicEncoder(sound.config, sound.encoder, embedder).encode(TEXTS)


def test_14_14_the_command_exits_with_2_and_writes_nothing(folder, tmp_path, monkeypatch, capsys):
    encoder = DynamicEncoder.load(folder)
    spoil(encoder.encoder.layers.ffn_norm.scale)
    save_encoder(folder, encoder.config, encoder.encoder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    assert main(["encode", "texts.txt", "--model", str(folder), "--output", "out"]) == 2
    assert "NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "out" / "embeddings.safetensors").exists()


def test_14_14_a_cache_without_numbers_is_refused(tmp_path):
    cache = EmbeddingCache(4, WIDTH)
    cache.fetch([b"a"], lambda missing: np.full((len(missing), WIDTH), np.nan, np.float32))
    cache.save(tmp_path / "cache")
    with pytest.raises(CheckpointError, match="NaN or infinite: delete it"):
        EmbeddingCache.load(tmp_path / "cache", capacity=4, width=WIDTH)


def test_14_14_no_index_is_shaped_by_hidden_states_without_numbers(tmp_path):
    write_tiny_decoder(tmp_path)
    decoder = DynamicDecoder.load(tmp_path)
    decoder.decoder.final_norm.scale[...] = jnp.full(WIDTH, jnp.nan)
    with pytest.raises(NotANumberError, match="Hidden states of the model are NaN"):
        hidden_queries(decoder.decoder, [[5, 6, 7]])
