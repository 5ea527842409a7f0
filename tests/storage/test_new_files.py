"""What is written is whole under its name or not there, whatever kind of thing the name stands for."""

import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.errors import InputError
from dyntok_jax.storage import check_writable, save_arrays, written, written_together

LONGEST_NAMES = ("n" * 255, "й" * 127, "\N{GRINNING FACE}" * 63)
"""Of 255, 254 and 252 bytes: file systems allow 255."""
WHOLE = "text"


def write(path, text=WHOLE):
    with written(path) as part:
        part.write_text(text)


@contextmanager
def file_size_limit(n_bytes):
    """Writing past the limit fails as it does on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_file_and_its_folders_are_made_with_the_permissions_of_their_neighbours(tmp_path):
    write(tmp_path / "a" / "b" / "c")
    save_arrays(tmp_path / "a" / "arrays", {"x": np.ones(2)})
    with written(tmp_path / "a" / "b" / "arrays") as part:
        save_arrays(part, {"x": np.ones(2)})
    (tmp_path / "plain").touch()
    assert (tmp_path / "a" / "b" / "c").read_text() == WHOLE
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert len({path.stat().st_mode for path in files}) == 1


def test_a_block_that_fails_leaves_what_was_there_and_no_new_folder(tmp_path):
    write(tmp_path / "old", "before")

    def fail():
        with written_together([tmp_path / "old", tmp_path / "new" / "er" / "file"]) as parts:
            for part in parts:
                part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "before"


def test_files_written_together_appear_only_when_all_are_whole(tmp_path):
    with written_together([tmp_path / "one", tmp_path / "two"]) as (one, two):
        one.write_text("1")
        two.write_text("2")
        assert not (tmp_path / "one").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one": "1", "two": "2"}


@pytest.mark.parametrize("name", LONGEST_NAMES)
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    check_writable(tmp_path / name)
    write(tmp_path / name)
    assert (tmp_path / name).read_text() == WHOLE
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_is_too_long_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="File name too long"):
        check_writable(tmp_path / ("n" * 256))
    with pytest.raises(OSError, match="File name too long"), written_together([tmp_path / "a", tmp_path / ("n" * 256)]):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_absolute", [True, False])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path, is_absolute, is_there):
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "file"
    if is_there:
        target.write_text("before")
    (tmp_path / "link").symlink_to(target if is_absolute else Path("data") / "file")
    check_writable(tmp_path / "link")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == WHOLE
    assert len(list(tmp_path.rglob("*"))) == 3


def test_links_in_a_circle_are_told(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(InputError, match="symbolic links"):
        check_writable(tmp_path / "one")
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "one")


def test_a_pipe_is_given_the_bytes_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        found = []
        reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))  # noqa: B023
        reader.start()
        check_writable(tmp_path / name)
        with written(tmp_path / name) as part:
            save_arrays(part, {"x": np.ones(3, np.float32)})
        reader.join(timeout=10)
        (tmp_path / "read").write_bytes(found[0])
        np.testing.assert_array_equal(load_file(tmp_path / "read")["x"], np.ones(3))
        assert (tmp_path / "pipe").is_fifo()
        (tmp_path / "read").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


PROGRAM = """
import sys
from dyntok_jax.storage import check_writable, written
print("before")
check_writable(sys.argv[1])
with written(sys.argv[1]) as part:
    part.write_text("whole\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "LINK"])
def test_standard_output_is_written_in_order_be_it_a_pipe_or_a_file(tmp_path, name):
    (tmp_path / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "link") if name == "LINK" else name]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    piped = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    with (tmp_path / "out").open("wb") as file:
        subprocess.run(command, env=environment, stdout=file, check=True, timeout=60)
    assert piped == (tmp_path / "out").read_bytes() == b"before\nwhole\nafter\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_a_disk_without_room_is_one_error_and_nothing_half_written(tmp_path):
    write(tmp_path / "old", "before")
    for fill in (
        lambda part: part.write_bytes(bytes(50_000)),
        lambda part: save_arrays(part, {"x": np.zeros(50_000, np.uint8)}),
    ):

        def fail(fill=fill):
            with written_together([tmp_path / "old", tmp_path / "made" / "file"]) as (_, part):
                fill(part)

        with file_size_limit(20_000), pytest.raises(OSError, match="File too large"):
            fail()
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "before"}


def test_bytes_that_do_not_reach_the_disk_are_an_error(tmp_path, monkeypatch):
    write(tmp_path / "old", "before")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "old", "after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "before"}


def test_what_is_no_file_to_write_is_told_before_a_long_run(tmp_path):
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "inside", "is not a folder"),
        (Path("/dev/fd/987"), "Bad file descriptor"),
    ):
        with pytest.raises(InputError, match=said):
            check_writable(path)
        with pytest.raises(OSError, match=r".+"), written(path) as part:
            part.write_text("x")
    check_writable(tmp_path / "not" / "yet" / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
