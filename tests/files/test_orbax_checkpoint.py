"""Checkpoints come back bit by bit, whole or not at all."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.convert import read_config
from dyntok_jax.errors import CheckpointError
from dyntok_jax.files import is_checkpoint, load_checkpoint, new_folder, read_shapes, save_checkpoint
from dyntok_jax.models import Encoder, EncoderConfig
from dyntok_jax.sharding import make_mesh, shardings_for


@cache
def shapes(dtype=jnp.float32):
    fields = {"model_type": "bert", "vocab_size": 40, "width": 16, "n_layers": 2, "n_heads": 2, "ffn_width": 24}
    config = EncoderConfig(**fields | {"max_positions": 20})
    return jax.eval_shape(partial(Encoder, config, dtype=dtype), jax.random.key(0))


def random_encoder(dtype=jnp.float32):
    # filled in by numpy: compiling the constructor would take most of the tests' time
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes(dtype))


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture
def saved(tmp_path):
    encoder = random_encoder()
    save_checkpoint(tmp_path / "deep" / "saved", {"name": "é"}, encoder)
    return tmp_path / "deep" / "saved", encoder


def test_parameters_and_config_come_back(saved):
    folder, encoder = saved
    assert is_checkpoint(folder)
    assert read_config(folder) == {"name": "é"}
    assert_same(load_checkpoint(folder, shapes()), encoder)
    assert read_shapes(folder)["word_embeddings"].shape == (40, 16)
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


@pytest.mark.slow
def test_bfloat16_comes_back_and_dtypes_are_cast(tmp_path):
    encoder = random_encoder(jnp.bfloat16)
    save_checkpoint(tmp_path / "a", {}, encoder)
    assert_same(load_checkpoint(tmp_path / "a", shapes(jnp.bfloat16)), encoder)
    wide = load_checkpoint(tmp_path / "a", shapes())
    assert_same(wide, jax.tree.map(lambda x: x.astype(jnp.float32), encoder))


@pytest.mark.slow
def test_sharded_trees_are_written_and_read_into_shards(tmp_path, saved):
    folder, encoder = saved
    abstract = shapes()
    place = partial(shardings_for, mesh=make_mesh(4, 2))
    sharded = load_checkpoint(folder, abstract, shardings=place)
    assert len(sharded.word_embeddings[...].addressable_shards[0].data[0]) == 8
    assert_same(sharded, encoder)
    save_checkpoint(tmp_path / "again", {}, sharded)
    assert_same(load_checkpoint(tmp_path / "again", abstract), encoder)


def test_a_checkpoint_of_another_config_is_refused_with_all_faults(saved):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved[0], {"word_embeddings": jax.ShapeDtypeStruct((41, 16), jnp.float32), "more": jnp.ones(2)})
    for fault in ("unknown: layers.query.kernel", "missing: more", "word_embeddings is [40, 16], expected [41, 16]"):
        assert fault in str(caught.value)


def test_folders_that_are_no_checkpoints_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        assert not is_checkpoint(folder)
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            read_shapes(folder)


@pytest.mark.parametrize("victim", ["_METADATA", "manifest.ocdbt", "data"])
def test_damage_is_named(tmp_path, victim):
    # one array: of several that fail at once, orbax reports one and leaves the others to the garbage collector
    save_checkpoint(tmp_path / "saved", {}, {"x": jnp.ones((40, 40))})
    if victim == "data":
        for path in tmp_path.glob("saved/parameters/state/**/d/*"):
            path.write_bytes(path.read_bytes()[:10])
    else:
        for path in tmp_path.glob(f"saved/parameters/state/**/{victim}"):
            path.unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(tmp_path / "saved", {"x": jax.ShapeDtypeStruct((40, 40), jnp.float32)})


def test_24_a_changed_bit_is_told(tmp_path):
    abstract = {name: jax.ShapeDtypeStruct((40, 40), jnp.float32) for name in "xy"}
    values = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    save_checkpoint(tmp_path / "saved", {}, {"x": jnp.asarray(values), "y": jnp.ones((40, 40))})
    assert np.array_equal(load_checkpoint(tmp_path / "saved", abstract)["x"], values)
    target = values[20, 20:24].tobytes()
    (path,) = (p for p in tmp_path.glob("saved/parameters/**/d/*") if target in p.read_bytes())
    content = bytearray(path.read_bytes())
    content[content.index(target)] ^= 1
    path.write_bytes(content)
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = jax.tree.map(lambda leaf, dtype=dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), abstract)
        with pytest.raises(CheckpointError, match=r"is damaged.*x is not what was written"):
            load_checkpoint(tmp_path / "saved", cast)
    (tmp_path / "saved" / "checksums.json").unlink()  # as version 0.1 wrote them
    load_checkpoint(tmp_path / "saved", abstract)


def test_what_is_there_stays_unless_overwriting(saved):
    folder, _ = saved
    with pytest.raises(CheckpointError, match="--overwrite"):
        save_checkpoint(folder, {}, {"x": jnp.ones(2)})
    save_checkpoint(folder, {}, {"x": jnp.ones(2)}, overwrite=True)
    assert list(read_shapes(folder)) == ["x"]
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_only_model_folders_are_ever_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(CheckpointError, match="not a model folder"), new_folder(tmp_path / "photos", overwrite=True):
        pass
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_failure_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "inside", {}, {"x": jnp.ones(2)})
    with pytest.raises(KeyboardInterrupt):
        fill_half_of(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_between_the_renames_keeps_what_was_there(saved, monkeypatch):
    folder, encoder = saved
    rename = Path.rename

    def interrupted(self, target):
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, {}, {"x": jnp.ones(2)}, overwrite=True)
    assert_same(load_checkpoint(folder, shapes()), encoder)
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def fill_half_of(folder):
    with new_folder(folder) as part:
        (part / "half").touch()
        raise KeyboardInterrupt
