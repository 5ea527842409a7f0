"""Padding holds what it pads, wastes little, and takes few sizes."""

from hypothesis import given, strategies as st

from dyntok_jax.text import LENGTH_BUCKETS, bucket, buckets, buckets_up_to, divided_buckets

ALL = [value for name, value in vars(buckets).items() if name.endswith("_BUCKETS")]
choices = st.sampled_from(ALL)


def test_every_set_of_buckets_rises():
    assert len(ALL) == 10
    assert all(list(sizes) == sorted(set(sizes)) and sizes[0] >= 1 for sizes in ALL)


@given(st.integers(1, 20_000), choices)
def test_a_bucket_is_the_smallest_that_holds_the_length(length, sizes):
    found = bucket(length, sizes)
    assert found >= length
    assert found in sizes or (found % sizes[-1] == 0 and found - length < sizes[-1])
    assert all(size < length for size in sizes if size < found)


@given(st.integers(1, 64), choices)
def test_divided_buckets_hold_as_much_and_are_divided(n_parts, sizes):
    found = divided_buckets(sizes, n_parts)
    assert all(size % n_parts == 0 for size in found)
    assert all(0 <= bucket(size, found) - size < n_parts for size in sizes)


@given(st.integers(1, 600))
def test_nothing_is_padded_beyond_the_longest(longest):
    found = buckets_up_to(longest, LENGTH_BUCKETS)
    assert found[-1] == longest
    assert set(found[:-1]) == {size for size in LENGTH_BUCKETS if size < longest}
