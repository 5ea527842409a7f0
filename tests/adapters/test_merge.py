"""Merging equals a plain oracle in NumPy; that it equals peft is held in `tests/parity`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.adapters import (
    LoraConfig,
    MergeMethod,
    add_delta,
    delta_of,
    fold_adapters,
    merge_adapters,
    merge_deltas,
    swap_layers,
)
from dyntok_jax.errors import InputError
from tests.adapters.test_adapters import CONFIG, ENCODER, HEAD, WHOLE_HEAD, trained
from tests.models.test_bert import assert_close, fresh

WEIGHTS = [0.4, 0.6, -0.3]
METHODS = ("linear", "magnitude", "ties", "pcb", "consensus")


def random_deltas(seed=0, count=3):
    rng = np.random.default_rng(seed)
    shapes = {"layers.query.kernel": (2, 7, 3, 5), "norm.scale": (9,), "word_embeddings": (11, 4)}
    return [{path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()} for _ in range(count)]


def largest(x, density):
    kept = np.zeros(x.size, x.dtype)
    for at in np.argsort(-np.abs(x).ravel(), kind="stable")[: int(density * x.size)]:
        kept[at] = x.ravel()[at]
    return kept.reshape(x.shape)


def clipped(x, low, high):
    ordered = np.sort(x)
    return np.clip(x, ordered[min(int(x.size * low), x.size - 1)], ordered[max(int(x.size * (1 - high)) - 1, 0)])


def oracle(tensors, weights, method):
    """One tensor of each, the way the papers say it."""
    if method.name == "magnitude":
        tensors = [largest(x, method.density) for x in tensors]
    if method.name in ("linear", "magnitude"):
        return sum(w * x for w, x in zip(weights, tensors, strict=True))
    merged = np.zeros(tensors[0].size)
    if method.name == "ties":
        tensors = [largest(x, method.density).ravel() for x in tensors]
        for at in range(merged.size):
            values = [x[at] for x in tensors]
            vote = sum(values if method.sign == "total" else map(np.sign, values))
            chosen = [w * x for w, x in zip(weights, values, strict=True) if x * (1 if vote >= 0 else -1) > 0]
            merged[at] = sum(chosen) / max(len(chosen), 1)
    elif method.name == "consensus":
        total = oracle(tensors, weights, MergeMethod()).ravel()
        for at in range(merged.size):
            own = [w * x.ravel()[at] for w, x in zip(weights, tensors, strict=True)]
            matters = sum(abs(x) >= method.threshold * abs(total[at] - x) for x in own)
            merged[at] = total[at] if matters >= method.agreement else 0
    else:
        tensors, scores = [x.ravel() for x in tensors], []
        for x in tensors:
            size = clipped(np.abs(x), 1e-4, 1e-4)
            own = np.exp(len(tensors) * ((size - size.min()) / (size.max() - size.min())) ** 2)
            score = clipped(own * np.tanh(x * sum(tensors)), 1 - method.density, 0)
            scores.append((score - score.min()) / (score.max() - score.min()))
        sizes = [np.sign(x) * clipped(np.abs(x), 1e-4, 1e-4) for x in tensors]
        merged = sum(w * x * s for w, x, s in zip(weights, sizes, scores, strict=True)) / np.maximum(sum(scores), 1e-12)
    return merged.reshape(tensors[0].shape if method.name != "pcb" else merged.shape)


@pytest.mark.parametrize("density", [0.8, 0.25])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_deltas_are_merged_as_the_oracle_merges_them(name, density, sign):
    if sign == "frequency" and name != "ties":
        return
    method, deltas = MergeMethod(name, density=density, sign=sign), random_deltas()
    merged = merge_deltas([{path: jnp.asarray(x) for path, x in one.items()} for one in deltas], WEIGHTS, method)
    for path, ours in merged.items():
        parts = [[one[path]] if "layers" not in path else list(one[path]) for one in deltas]
        expected = [oracle(list(row), WEIGHTS, method).reshape(row[0].shape) for row in zip(*parts, strict=True)]
        assert_close(ours, np.stack(expected) if "layers" in path else expected[0])


def test_the_first_example_magnitude_pruning_keeps_the_largest_values():
    one, two = {"x": jnp.array([5.0, -4.0, 3.0, 2.0, 1.0])}, {"x": jnp.array([1.0, 2.0, 3.0, 4.0, -5.0])}
    merged = merge_deltas([one, two], [0.4, 0.6], MergeMethod("magnitude", density=0.8))
    np.testing.assert_allclose(merged["x"], [2.0, -0.4, 3.0, 3.2, -3.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_drops_at_random_and_scales_the_rest(name):
    deltas = [{"x": jnp.ones(4000)}, {"x": jnp.ones(4000)}]
    merged = merge_deltas(deltas, [1.0, 1.0], MergeMethod(name, density=0.5), key=jax.random.key(0))["x"]
    values, counts = np.unique(np.asarray(merged), return_counts=True)
    if name == "dare_linear":
        np.testing.assert_allclose(values, [0, 2, 4])
        np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
    else:
        np.testing.assert_allclose(values, [0, 2])
        np.testing.assert_allclose(counts / 4000, [0.25, 0.75], atol=0.03)
    with pytest.raises(InputError, match="give it a key"):
        merge_deltas(deltas, [1.0, 1.0], MergeMethod(name, density=0.5))


@pytest.mark.parametrize(
    ("name", "same_as"), [("dare_linear", "linear"), ("dare_ties", "ties"), ("magnitude", "linear")]
)
def test_at_full_density_nothing_is_dropped(name, same_as):
    deltas, key = random_deltas(), jax.random.key(0)
    merged = merge_deltas(deltas, WEIGHTS, MergeMethod(name), key=key)
    expected = merge_deltas(deltas, WEIGHTS, MergeMethod(same_as))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6), merged, expected)


@pytest.mark.parametrize("name", METHODS)
def test_of_products_at_full_rank_the_merged_adapter_is_the_merged_delta(name):
    method = MergeMethod(name, density=0.5)
    adapters = [trained(LoraConfig(rank=3, targets=("query", "output.dense")), seed=seed) for seed in range(2)]
    merged = merge_adapters(adapters, [0.4, 0.6], method, rank=99)
    deltas = [{f"{path}.kernel": one.delta() for path, one in adapter.maps.items()} for adapter in adapters]
    for path, expected in merge_deltas(deltas, [0.4, 0.6], method).items():
        assert_close(merged.maps[path.removesuffix(".kernel")].delta(), expected)
    jax.jit(fold_adapters)(ENCODER, [merged])


def test_task_arithmetic_adds_what_was_learnt():
    tuned = jax.tree.map(lambda x: x + 0.25, ENCODER)
    merged = add_delta(ENCODER, merge_deltas([delta_of(tuned, ENCODER)] * 2, [1.0, 0.5]), scale=2.0)
    jax.tree.map(lambda ours, base: np.testing.assert_allclose(ours, base + 0.75, atol=1e-5), merged, ENCODER)


def test_layers_come_from_the_models_that_the_table_names():
    one, two = ENCODER, jax.tree.map(lambda x: x + 1, ENCODER)
    swapped = swap_layers([one, two], sources=[1, 0], rest=1)
    np.testing.assert_array_equal(swapped.layers.query.kernel[0], two.layers.query.kernel[0])
    np.testing.assert_array_equal(swapped.layers.query.kernel[1], one.layers.query.kernel[1])
    np.testing.assert_array_equal(swapped.word_embeddings[...], two.word_embeddings[...])


def test_layers_of_adapters_come_with_their_scales():
    adapters = [trained(LoraConfig(rank=3, alpha=alpha, targets=("query",)), seed=alpha) for alpha in (3, 6)]
    swapped = swap_layers(adapters, sources=[1, 0]).maps["layers.query"]
    assert swapped.scales == (2.0, 1.0)
    np.testing.assert_array_equal(swapped.a[0], adapters[1].maps["layers.query"].a[0])


@pytest.mark.parametrize("density", [-0.1, 1.5, float("nan")])
def test_a_density_outside_0_to_1_is_refused(density):
    with pytest.raises(InputError, match=r"^The density of a merge must be from 0 to 1, got"):
        MergeMethod("ties", density=density)


@pytest.mark.parametrize("weights", [[1.0], [1.0, float("nan")], [1.0, 2.0, 3.0]])
def test_weights_of_another_number_are_refused(weights):
    with pytest.raises(InputError, match=r"^A merge of 2 needs a finite weight for each"):
        merge_deltas(random_deltas(count=2), weights)


def test_adapters_of_different_shapes_are_refused():
    one = trained(LoraConfig(rank=3, targets=("query", "key")))
    other_rank = trained(LoraConfig(rank=2, targets=("query", "key")))
    with pytest.raises(InputError, match=r"must have the same shapes, unless the merge has a rank.*layers.key .*query"):
        merge_adapters([one, other_rank], [1.0, 1.0])
    assert merge_adapters([one, other_rank], [1.0, 1.0], rank=4).maps["layers.key"].ranks == (4, 4)
    with pytest.raises(InputError, match=r"layers.query is .* in 0 and missing in 1"):
        merge_adapters([one, trained(LoraConfig(rank=3, targets=("key",)))], [1.0, 1.0], rank=4)
    with pytest.raises(InputError, match=r"word_embeddings is \(50, 16\) in 0 and \(60, 16\) in 1"):
        merge_deltas([ENCODER, fresh(CONFIG.__class__(**vars(CONFIG) | {"vocab_size": 60}))], [1.0, 1.0])


def test_parameters_that_several_replace_are_not_merged():
    adapter = trained(WHOLE_HEAD, head=HEAD)
    with pytest.raises(InputError, match=r"^Several adapters replace .*head.output.kernel"):
        merge_adapters([adapter, adapter], [1.0, 1.0])


def test_tables_of_layers_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"^Layers are to come from 2: there are 2 trees"):
        swap_layers([ENCODER, ENCODER], sources=[0, 2])
    with pytest.raises(InputError, match=r"has 2 layers and sources names 3"):
        swap_layers([ENCODER, ENCODER], sources=[0, 1, 1])
