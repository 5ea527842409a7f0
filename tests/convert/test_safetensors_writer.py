"""The streaming writer writes what `save_file` writes, and never holds two tensors."""

import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file

from dyntok_jax.convert import (
    LazyTensor,
    open_checkpoint,
    write_weights,
)
from dyntok_jax.convert.safetensors import AS_IS, TRANSPOSED
from dyntok_jax.convert.safetensors_writer import (
    export_tensors,
    write_checkpoint,
)
from dyntok_jax.errors import CheckpointError

DTYPES = (np.float32, np.float16, bfloat16)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6)


def lazy(array: np.ndarray) -> LazyTensor:
    return LazyTensor(array.shape, array.dtype, lambda: array)


def counted(count: int, size: int = 25) -> dict[str, LazyTensor]:
    return {f"t{i}": lazy(np.full(size, i, np.float32)) for i in range(count)}


@given(st.dictionaries(names, st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=6))
def test_the_bytes_are_those_of_save_file(tmp_path_factory, specs):
    folder = tmp_path_factory.mktemp("w")
    rng = np.random.default_rng(0)
    tensors = {name: np.asarray(rng.normal(size=shape), dtype) for name, (shape, dtype) in specs.items()}
    write_weights(folder, {name: lazy(array) for name, array in tensors.items()})
    save_file(tensors, folder / "expected.safetensors", metadata={"format": "pt"})
    assert (folder / "model.safetensors").read_bytes() == (folder / "expected.safetensors").read_bytes()
    checkpoint = open_checkpoint(folder)
    for name, array in tensors.items():
        assert checkpoint.read(name).tobytes() == array.tobytes()
        assert checkpoint.read(name, np.float32).tobytes() == array.astype(np.float32).tobytes()


def test_one_tensor_is_held_at_a_time(tmp_path):
    alive: list[weakref.ref] = []

    def make(index: int) -> np.ndarray:
        assert [ref() for ref in alive if ref() is not None] == []
        array = np.full(1000, index, np.float32)
        alive.append(weakref.ref(array))
        return array

    tensors = {f"t{i}": LazyTensor((1000,), np.dtype(np.float32), lambda i=i: make(i)) for i in range(5)}
    write_weights(tmp_path, tensors)
    assert [tensor[0] for _, tensor in sorted(load_file(tmp_path / "model.safetensors").items())] == [0, 1, 2, 3, 4]


def test_shards_hold_no_more_than_asked_and_their_index_says_where(tmp_path):
    write_checkpoint(tmp_path, {"a": 1}, counted(5) | {"big": lazy(np.ones(100, np.float32))}, max_shard_bytes=200)
    files = sorted(path.name for path in tmp_path.iterdir())
    shards = [f"model-{i:05}-of-00004.safetensors" for i in range(1, 5)]
    assert files == ["config.json", *shards, "model.safetensors.index.json"]
    assert [sorted(load_file(tmp_path / shard)) for shard in shards] == [["t0", "t1"], ["t2", "t3"], ["big"], ["t4"]]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 900}
    assert index["weight_map"]["big"] == shards[2]
    assert open_checkpoint(tmp_path).files.keys() == {*counted(5), "big"}


def test_weights_of_before_do_not_stay_beside_the_new_ones(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for limit, n_files in ((10**9, 1), (200, 3), (300, 2), (10**9, 1)):
        write_checkpoint(tmp_path, {}, counted(6), max_shard_bytes=limit)
        assert len(list(tmp_path.glob("*.safetensors"))) == n_files
        assert (tmp_path / "model.safetensors.index.json").exists() == (n_files > 1)
        assert open_checkpoint(tmp_path).files.keys() == counted(6).keys()
    assert (tmp_path / "tokenizer.json").exists()


def test_a_write_that_fails_in_a_later_shard_leaves_the_old_weights(tmp_path):
    write_checkpoint(tmp_path, {"was": "here"}, counted(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk():
        raise OSError(28, "No space left on device")

    broken = counted(6) | {"t5": LazyTensor((25,), np.dtype(np.float32), full_disk)}
    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint(tmp_path, {}, broken, max_shard_bytes=200)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_tensor_that_is_not_as_announced_is_a_bug_and_nothing_is_written(tmp_path):
    for shape, dtype in (((3,), np.float32), ((25,), np.float16)):
        wrong = LazyTensor(shape, np.dtype(dtype), lambda: np.zeros(25, np.float32))
        with pytest.raises(ValueError, match="not as announced"):
            write_weights(tmp_path, {"t": wrong})
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_tensors(tmp_path):
    shares = []
    write_weights(tmp_path, counted(4), max_shard_bytes=200, progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_rows_of_a_stack_are_exported_alone():
    stack = jnp.arange(24, dtype=jnp.float32).reshape(2, 3, 4)
    table = {"layer.{i}.w": ("stack", TRANSPOSED), "norm": ("norm", AS_IS)}
    tensors = export_tensors({"stack": stack, "norm": jnp.ones(3, jnp.bfloat16)}, table)
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        "layer.0.w": ((4, 3), "float32"),
        "layer.1.w": ((4, 3), "float32"),
        "norm": ((3,), "bfloat16"),
    }
    np.testing.assert_array_equal(tensors["layer.1.w"].read(), np.asarray(stack)[1].T)
    with jax.transfer_guard_device_to_host("disallow_explicit"):
        export_tensors({"stack": stack, "norm": jnp.ones(3)}, table)  # moves nothing yet


def test_new_files_are_as_readable_as_their_neighbours(tmp_path):
    (tmp_path / "neighbour").write_text("")
    write_checkpoint(tmp_path, {}, counted(1))
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
