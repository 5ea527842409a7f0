"""What a sentence-transformers folder declares is done, or refused by its name."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from dyntok_jax import DynamicEncoder
from dyntok_jax.errors import CheckpointError, ConfigError, InputError, TooLongError
from dyntok_jax.files import convert_folder
from tests.support.tiny import WIDTH, write_sentence_modules, write_tiny_encoder

TEXTS = ["All human beings are born free and equal in dignity.", "Freiheit", "", "Hür ve eşit doğarlar."]
TANH = "torch.nn.modules.activation.Tanh"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "model"
    write_tiny_encoder(folder)
    return folder


@pytest.fixture
def folder(plain, tmp_path):
    """A copy, for a test to declare something in."""
    return shutil.copytree(plain, tmp_path / "model")


def declares(folder, *, pooling=None, **options):
    write_sentence_modules(folder, pooling=pooling or {"pooling_mode_cls_token": True}, **options)
    return DynamicEncoder.load(folder)


def by_hand(plain, pool):
    return np.stack([pool(hidden) for hidden in DynamicEncoder.load(plain).encode(TEXTS, pooling="none").hidden])


def test_14_1_a_declared_cls_is_the_default(folder):
    encoder = declares(folder)
    found, asked, mean = (encoder.encode(TEXTS, pooling=how).embeddings_ND for how in ("auto", "first", "mean"))
    np.testing.assert_array_equal(found, asked)
    assert np.abs(found - mean).max() > 0.01


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ({"pooling_mode_cls_token": True}, lambda h: h[0]),
        ({"pooling_mode_max_tokens": True}, lambda h: h.max(axis=0)),
        ({"pooling_mode_mean_tokens": True}, lambda h: h.mean(axis=0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda h: h.sum(axis=0) / np.sqrt(len(h))),
        ({"pooling_mode_weightedmean_tokens": True}, lambda h: np.average(h, axis=0, weights=1 + np.arange(len(h)))),
        ({"pooling_mode_lasttoken": True}, lambda h: h[-1]),
        ({"pooling_mode": "lasttoken"}, lambda h: h[-1]),
        ({"pooling_mode": ["cls", "max"]}, lambda h: np.concatenate([h[0], h.max(axis=0)])),
        ({"pooling_mode_cls_token": False}, lambda h: h.mean(axis=0)),
    ],
)
def test_14_1_every_declared_pooling_is_done(folder, plain, pooling, pool):
    encoder = declares(folder, pooling=pooling, normalizes=False)
    np.testing.assert_allclose(encoder.encode(TEXTS).embeddings_ND, by_hand(plain, pool), rtol=0, atol=1e-5)


def test_14_1_a_dense_layer_and_normalize_are_done_when_declared(folder, plain):
    kernel, bias = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32), np.ones(5, np.float32)
    dense = {"weight": kernel, "bias": bias, "activation_function": TANH}
    expected = by_hand(plain, lambda h: np.tanh(kernel @ h[0] + bias))
    found = declares(folder, dense=dense, normalizes=False).encode(TEXTS).embeddings_ND
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    found = declares(folder, dense=dense).encode(TEXTS).embeddings_ND
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=0, atol=1e-5)


def test_14_1_the_declared_longest_sequence_is_the_limit(folder):
    encoder = declares(folder, longest=8)
    with pytest.raises(TooLongError, match="there is room for 8"):
        encoder.encode(TEXTS)
    assert encoder.encode(TEXTS, truncate=True).tokens.lengths.max() == 8


def test_14_1_prompts_go_by_their_names(folder):
    prompts = {"prompts": {"query": "query: ", "document": "text: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    encoder = declares(folder)
    for name in ("query", "document"):
        by_name = encoder.encode(TEXTS, prompt_name=name).embeddings_ND
        np.testing.assert_array_equal(by_name, encoder.encode(TEXTS, prefix=prompts["prompts"][name]).embeddings_ND)
    np.testing.assert_array_equal(encoder.encode(TEXTS).embeddings_ND, encoder.encode(TEXTS, prefix="").embeddings_ND)
    with pytest.raises(InputError, match=r"declares no prompt 'passage' \(it has: query, document\)"):
        encoder.encode(TEXTS, prompt_name="passage")
    with pytest.raises(InputError, match="not both"):
        encoder.encode(TEXTS, prompt_name="query", prefix="query: ")


def test_14_1_a_truncated_dimension_is_the_beginning_scaled(folder):
    encoder = declares(folder)
    whole, cut = encoder.encode(TEXTS, normalize=False).embeddings_ND, encoder.encode(TEXTS, truncate_dim=7)
    assert cut.embeddings_ND.shape == (len(TEXTS), 7)
    expected = whole[:, :7] / np.linalg.norm(whole[:, :7], axis=1, keepdims=True)
    np.testing.assert_allclose(cut.embeddings_ND, expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="from 1 to 32, got 33"):
        encoder.encode(TEXTS, truncate_dim=WIDTH + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": {"pooling_mode_magic": True}}, "asks for pooling_mode_magic"),
        ({"pooling": {"pooling_mode": "magic"}}, "asks for pooling_mode 'magic'"),
        ({"pooling": {"pooling_mode_mean_tokens": True, "include_prompt": False}}, "include_prompt"),
        ({"kinds": ("Transformer", "WeightedLayerPooling", "Pooling")}, "asks for WeightedLayerPooling"),
        ({"kinds": ("Transformer", "Normalize", "Pooling")}, "chains Transformer → Normalize → Pooling"),
        ({"dense": {"weight": np.ones((2, WIDTH)), "activation_function": "my.Secret"}}, "'my.Secret'"),
        ({"dense": {"weight": np.ones((2, WIDTH)), "use_residual": True}}, "use_residual"),
        ({"lowers": True}, "do_lower_case"),
    ],
)
def test_14_1_what_is_not_supported_is_refused_by_name(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        declares(folder, **changes)


def test_14_1_a_dense_layer_of_another_width_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"another width .* than the 32"):
        declares(folder, dense={"weight": np.ones((2, WIDTH + 1))})


def test_14_1_a_pickled_dense_layer_is_refused(folder):
    write_sentence_modules(folder, pooling={}, dense={"weight": np.ones((2, WIDTH))})
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"2_Dense holds weights only as pickle"):
        DynamicEncoder.load(folder)


def test_14_1_a_converted_folder_declares_the_same(folder, tmp_path):
    expected = declares(folder, dense={"weight": np.ones((2, WIDTH), np.float32)}).encode(TEXTS).embeddings_ND
    save_file({"x": np.ones(1)}, folder / "2_Dense" / "pytorch_model.bin")
    convert_folder(str(folder), str(tmp_path / "orbax"))
    convert_folder(str(tmp_path / "orbax"), str(tmp_path / "back"))
    assert not (tmp_path / "back" / "2_Dense" / "pytorch_model.bin").exists()
    np.testing.assert_array_equal(DynamicEncoder.load(tmp_path / "back").encode(TEXTS).embeddings_ND, expected)
