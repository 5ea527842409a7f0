"""A folder appears whole, replaces only what it may, and follows links."""

import os
import time

import pytest

from dyntok_jax.storage import written_folder
from dyntok_jax.storage.new_folders import STALE_SECONDS


def write(folder, text="new", *, may_replace=lambda _: True):
    with written_folder(folder, may_replace=may_replace) as part:
        (part / "inside").mkdir()
        (part / "inside" / "file").write_text(text)


def text_of(folder):
    return (folder / "inside" / "file").read_text()


def test_a_folder_is_made_with_those_above_it_and_replaced_whole(tmp_path):
    write(tmp_path / "a" / "b", "old")
    write(tmp_path / "a" / "b")
    assert text_of(tmp_path / "a" / "b") == "new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_what_may_not_be_replaced_stays(tmp_path):
    write(tmp_path / "a", "old")
    write(tmp_path / "a", may_replace=lambda folder: folder != tmp_path / "a")
    assert text_of(tmp_path / "a") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_block_that_fails_leaves_no_folder(tmp_path):
    write(tmp_path / "there", "old")

    def fail(folder):
        with written_folder(folder, may_replace=lambda _: True) as part:
            (part / "half").touch()
            raise KeyboardInterrupt

    for folder in (tmp_path / "there", tmp_path / "new" / "er"):
        with pytest.raises(KeyboardInterrupt):
            fail(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "inside", "new", "there"]
    assert text_of(tmp_path / "there") == "old"


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    write(tmp_path / "data" / "model", "old")
    (tmp_path / "link").symlink_to("data/model")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert text_of(tmp_path / "data" / "model") == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "link"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["model"]


def test_a_name_may_be_as_long_as_the_file_system_allows_and_no_longer(tmp_path):
    write(tmp_path / ("n" * 255))
    write(tmp_path / ("n" * 255))
    with (
        pytest.raises(OSError, match="File name too long"),
        written_folder(tmp_path / ("n" * 256), may_replace=lambda _: True),
    ):
        pytest.fail("the block must not run")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_bytes_that_do_not_reach_the_disk_are_an_error_and_the_old_folder_stays(tmp_path, monkeypatch):
    write(tmp_path / "a", "old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a")
    assert text_of(tmp_path / "a") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_what_was_left_long_ago_under_the_same_name_is_swept_away(tmp_path):
    left = [tmp_path / f".{name}.0a1b2c3d.{ending}" for name, ending in (("a", "part"), ("a", "old"), ("b", "part"))]
    young = tmp_path / ".a.11111111.part"
    for folder in (*left, young):
        (folder / "inside").mkdir(parents=True)
    long_ago = time.time() - 2 * STALE_SECONDS
    for folder in left:
        for path in (folder / "inside", folder):
            os.utime(path, (long_ago, long_ago))
    os.utime(young, (long_ago, long_ago))  # what lies in it is new
    write(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", *(path.name for path in (*left[1:], young))}
