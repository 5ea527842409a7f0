"""Numbers and texts that callers give: NumPy's are numbers, floats are no whole numbers, nothing is passed over."""

from functools import partial

import jaxtyping
import numpy as np
import pytest

from dyntok_jax import Budget, DynamicDecoder, DynamicEncoder, Merges, Merging, SamplingConfig, Share
from dyntok_jax.embedding import EmbeddingCache
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.training import NetworkConfig, OptimizerConfig, RunConfig
from dyntok_jax.training.data import DataConfig
from dyntok_jax.vocabulary.index import build_index
from tests.support.tiny import write_tiny_decoder, write_tiny_encoder

TEXT = {"de": ("de.txt",)}
ROWS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def _without_our_checks_of_types(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have none


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    write_tiny_decoder(folder)
    return DynamicDecoder.load(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    write_tiny_encoder(folder)
    return DynamicEncoder.load(folder)


def test_22_integers_of_numpy_are_integers(decoder, encoder):
    three = np.int64(3)
    plain = decoder.generate(["Hello"], max_tokens=3, seed=3, sampling=SamplingConfig(1.0, top_k=3))
    numpy = decoder.generate(
        ["Hello"],
        max_tokens=three,
        seed=three,
        batch_size=three,
        sampling=SamplingConfig(np.float32(1.0), top_k=three),
    )
    assert numpy[0].text == plain[0].text
    assert decoder.generate(["Hello"], max_tokens=3, seed=np.array([3]))[0].ids
    assert Merges(three) == Merges(3)
    assert Budget(np.uint8(3)) == Budget(3)
    assert Merging(max_subwords=three) == Merging(max_subwords=3)
    assert Share(np.float64(50)) == Share(50)
    assert encoder.encode(["a b"], goal=Merges(three), batch_size=three).n_tokens.tolist() == [2]


@pytest.mark.parametrize(
    "call",
    [
        lambda _: Merges(1.5),
        lambda _: Merges(True),
        lambda _: Merges("3"),
        lambda _: Budget(2.0),
        lambda _: Share("50"),
        lambda _: Share(True),
        lambda _: Merging(max_subwords=2.5),
        lambda _: Merging(max_subwords="three"),
        lambda _: SamplingConfig(1.0, top_k=1.5),
        lambda _: SamplingConfig("warm"),
        lambda _: SamplingConfig(1.0, top_p="0.9"),
        lambda _: EmbeddingCache(2.5, 4),
        lambda decoder: decoder.generate(["x"], max_tokens=1.5),
        lambda decoder: decoder.generate(["x"], max_tokens=True),
        lambda decoder: decoder.generate(["x"], max_tokens=1, batch_size=1.5),
        lambda decoder: decoder.generate(["x"], max_tokens=1, seed=1.5),
        lambda decoder: decoder.generate(["x"], max_tokens=1, seed=[0.5]),
        lambda decoder: decoder.generate(["x"], max_tokens=1, stop=[5]),
        lambda decoder: list(decoder.stream("x", max_tokens=1.5)),
        lambda decoder: decoder.score(["x"], ["\ud800"]),
        lambda decoder: decoder.score(["x"], [5]),
        lambda decoder: decoder.choose(["x"], [["\ud800", "b"]]),
        lambda decoder: decoder.generate([5]),
        lambda _: build_index(ROWS, ROWS, n_cells=1.5),
        lambda _: build_index(ROWS, ROWS, seed=1.5),
    ],
)
def test_22_what_is_no_number_or_text_is_refused(decoder, call):
    with pytest.raises(InputError):
        call(decoder)


@pytest.mark.parametrize("value", [1.5, 2.0, "3", True, None])
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (RunConfig, "steps"),
        (RunConfig, "keep"),
        (OptimizerConfig, "accumulate"),
        (NetworkConfig, "layers"),
        (partial(DataConfig, TEXT), "batch_size"),
        (partial(DataConfig, TEXT), "seed"),
    ],
)
def test_22_counts_of_training_are_whole_numbers(options, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a whole number"):
        options(**{name: value})
    assert type(getattr(options(**{name: np.int64(3)}), name)) is int


@pytest.mark.parametrize(("options", "name"), [(OptimizerConfig, "clip"), (partial(DataConfig, TEXT), "share_mean")])
def test_22_numbers_of_training_are_numbers(options, name):
    with pytest.raises(ConfigError, match=f"{name} .*must be a number"):
        options(**{name: "3"})


def test_22_none_stops_at_nothing(decoder):
    assert decoder.generate(["x"], max_tokens=3, stop=None)[0].ids == decoder.generate(["x"], max_tokens=3)[0].ids


def test_22_an_empty_text_takes_no_bits(decoder):
    (scored,) = decoder.score(["x"], [""])
    assert (scored.total, scored.bits_per_byte) == (0.0, 0.0)


def test_22_a_language_that_nobody_reads_is_refused(decoder, encoder):
    for goal in (None, Share(100)):
        for call in (
            lambda goal: decoder.read(["x"], goal=goal, language="de"),
            lambda goal: decoder.score(["x"], ["y"], goal=goal, language="de"),
            lambda goal: encoder.encode(["x"], goal=goal, language="de"),
        ):
            with pytest.raises(InputError, match="leave the language out"):
                call(goal)
