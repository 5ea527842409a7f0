"""What the device version is for: jit, vmap, sharding, one program for all goals."""

from contextlib import nullcontext
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dyntok_jax.merging import (
    FirstMerges,
    merge_batch,
    merge_batch_on_host,
)
from dyntok_jax.merging.device import _merge
from dyntok_jax.merging.goals import (
    limits_of,
    longest_token,
    target_tokens,
)
from dyntok_jax.merging.segments import (
    merge_segments,
)
from dyntok_jax.options import (
    Budget,
    Merges,
    Share,
)
from tests.support.merging_cases import assert_equal, golden_cases, pad

LIMIT = 3


@pytest.fixture(scope="module")
def batch():
    case = next(case for case in golden_cases("mistral") if len(case["ids"]) == 16)
    return pad([row[:48] for row in case["ids"]], [row[:48] for row in case["segments"]], width=48)


def staged(batch, count):
    """Texts as segments; the batch's segments are the pretokens of the first stage."""
    ids_BL, segment_BL, mask_BL = batch
    return (ids_BL, np.minimum(segment_BL, 0), mask_BL), FirstMerges(segment_BL, count)


@pytest.mark.parametrize("scope", ["batch", "example"])
def test_neither_goal_nor_limit_is_compiled_in(batch, scope):
    goals = (Merges(3), Merges(9), Share(20), Share(100), Budget(40), limits_of(Merges(4)))
    before = _merge._cache_size()
    for goal in goals:
        for max_subwords in (None, 2, 7):
            merge_batch(*batch, goal, max_subwords=max_subwords, scope=scope)
    assert _merge._cache_size() - before <= 1


def test_the_number_of_first_merges_is_not_compiled_in(batch):
    before = _merge._cache_size()
    for count in (0, 3, 2**40, jnp.int32(7)):
        arrays, first = staged(batch, count)
        merge_batch(*arrays, Merges(9), first=first)
    assert _merge._cache_size() - before <= 1


@pytest.mark.parametrize("scope", ["batch", "example"])
def test_vmap_of_two_stages_merges_each_batch_alone(batch, scope):
    arrays, first = staged(batch, 5)
    batches = [array.reshape(4, 4, 48) for array in (*arrays, first.pretoken)]

    def merge(*of_batch):
        return merge_batch(*of_batch[:3], Merges(9), scope=scope, first=FirstMerges(of_batch[3], 5))

    merged = jax.vmap(merge)(*batches)
    for index in range(4):
        *one, pretoken_BL = (array[index] for array in batches)
        expected = merge_batch_on_host(*one, Merges(9), scope=scope, first=FirstMerges(pretoken_BL, 5))
        assert_equal(jax.tree.map(itemgetter(index), merged), expected)


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("scope", ["batch", "example"])
def test_two_stages_sharded_equal_unsharded(batch, axis_type, scope):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    arrays, first = staged(batch, 8)
    expected = merge_batch_on_host(*arrays, Merges(20), scope=scope, first=first)
    *sharded, pretoken_BL = jax.device_put((*arrays, first.pretoken), NamedSharding(mesh, PartitionSpec("data")))
    assert_equal(merge_batch(*sharded, Merges(20), scope=scope, first=FirstMerges(pretoken_BL, 8)), expected)


@pytest.mark.slow
def test_inside_jit_and_without_it_the_result_is_the_same(batch):
    small = [array[:1, :6] for array in batch]
    expected = merge_batch_on_host(*small, Merges(1), max_subwords=LIMIT)
    assert_equal(jax.jit(lambda *arrays: merge_batch(*arrays, Merges(1), max_subwords=LIMIT))(*small), expected)
    with jax.disable_jit():
        assert_equal(merge_batch(*map(jnp.asarray, small), Merges(1), max_subwords=LIMIT), expected)


@pytest.mark.parametrize("scope", ["batch", "example"])
def test_vmap_merges_each_batch_alone(batch, scope):
    batches = [array.reshape(4, 4, 48) for array in batch]
    merged = jax.vmap(lambda *arrays: merge_batch(*arrays, Merges(7), max_subwords=LIMIT, scope=scope))(*batches)
    for index in range(4):
        expected = merge_batch_on_host(*(array[index] for array in batches), Merges(7), max_subwords=LIMIT, scope=scope)
        assert_equal(jax.tree.map(itemgetter(index), merged), expected)


def test_vmap_over_goals_gives_each_its_own_result(batch):
    goals = [Merges(5), Share(50), Budget(30)]
    limits = jax.tree.map(lambda *numbers: np.stack(numbers), *map(limits_of, goals))
    merged = jax.vmap(lambda limits: merge_batch(*batch, limits))(limits)
    for index, goal in enumerate(goals):
        expected = merge_batch_on_host(*batch, goal, over_budget="keep")
        assert_equal(jax.tree.map(itemgetter(index), merged), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axis_type", "in_context"), [(AxisType.Auto, False), (AxisType.Explicit, False), (AxisType.Explicit, True)]
)
@pytest.mark.parametrize("scope", ["batch", "example"])
def test_sharded_equals_unsharded(batch, axis_type, in_context, scope):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    expected = merge_batch_on_host(*batch, Merges(20), max_subwords=LIMIT, scope=scope)
    with jax.set_mesh(mesh) if in_context else nullcontext():
        sharded = jax.device_put(batch, sharding)
        merged = merge_batch(*sharded, Merges(20), max_subwords=LIMIT, scope=scope)
        whole = merge_segments(*sharded[1:])
    assert_equal(merged, expected)
    assert_equal(whole, merge_segments(*batch[1:]))
    if axis_type == AxisType.Explicit:
        assert merged.start_BT.sharding.spec[0] == "data"


@pytest.mark.parametrize("percent", [0, 0.0001, 10, 33.3333, 50, 99.9999, 100])
@pytest.mark.parametrize("width", [1, 7, 1000, 46341, 1_000_003])
def test_targets_are_exact_where_int32_products_would_overflow(percent, width):
    # one segment over the whole row: width - 1 tokens can be saved
    segment_BL, mask_BL = np.zeros((1, width), np.int32), np.ones((1, width), bool)
    arguments = (limits_of(Share(percent)), segment_BL, mask_BL, longest_token(None))
    share = round(percent * 10_000)
    expected = width + (-share * (width - 1)) // 1_000_000
    assert target_tokens(*arguments) == expected
    assert target_tokens(*jax.tree.map(jnp.asarray, arguments)) == expected
