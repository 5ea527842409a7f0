import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from dyntok_jax.errors import CheckpointError, ModelNotFoundError
from dyntok_jax.files import find_hypernet, find_model, hub
from dyntok_jax.options import AUTO
from tests.support.gguf_files import bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
GOLDEN = Path(__file__).parents[1] / "golden"


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


@pytest.mark.parametrize("model", ["e5-small", "smollm2"])
def test_a_packaged_hypernetwork_is_found_by_its_model(tmp_path, monkeypatch, model):
    found = find_hypernet(AUTO, model)
    assert {path.name for path in found.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert (found / "model.safetensors").stat().st_size < 20e6
    assert find_hypernet(None, model) is None
    assert find_hypernet(AUTO, found) is None
    assert find_hypernet(found, "whatever") == found
    monkeypatch.chdir(tmp_path)  # folders win over packaged names, and other weights need another hypernetwork
    (tmp_path / model).mkdir()
    assert find_hypernet(AUTO, model) is None


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "nowhere/", "~nobody/x", "/" + "x" * 5000])
def test_paths_that_lead_nowhere_never_reach_the_hub(name):
    with pytest.raises(ModelNotFoundError, match=r"no folder .*packaged model \(e5-small, smollm2\)"):
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


def test_14_1_what_says_how_to_pool_comes_from_the_hub(hub_server):
    names = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json")
    fetched = (*MODEL_FILES, *names, "2_Dense/model.safetensors")
    hub_server.repositories["org/sentences"] = {
        name: name.encode() for name in (*fetched, "2_Dense/pytorch_model.bin", "onnx/model.onnx")
    }
    find_model("org/sentences")
    assert sorted(hub_server.fetched) == sorted(fetched)


@pytest.mark.usefixtures("hub_server")
def test_a_model_fetched_before_is_found_without_a_network(point_hub_to, monkeypatch):
    folder = find_model("org/good")
    point_hub_to(NO_NETWORK)
    assert find_model("org/good") == folder
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_model("org/good") == folder


def test_a_hub_repository_with_pickles_only_is_refused(hub_server):
    hub_server.repositories["org/old"] = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"."}
    with pytest.raises(CheckpointError, match="Hub repository org/old is not a model: it lacks weights"):
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


def test_a_gguf_file_is_unpacked_into_the_cache_once_and_anew_if_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNTOK_CACHE", str(tmp_path / "cache"))
    fields = bpe_fields() | llama_fields()
    source = write_gguf_file(tmp_path / "tiny.gguf", tiny_tensors(tiny_llama()), fields)
    folder = find_model(str(source))
    assert folder.parent == tmp_path / "cache"
    weights = (folder / "model.safetensors").stat().st_ino
    assert find_model(source) == folder
    assert (folder / "model.safetensors").stat().st_ino == weights
    write_gguf_file(source, tiny_tensors(tiny_llama(tied=True)), fields)
    assert find_model(source) != folder
    with pytest.raises(ModelNotFoundError, match="is a file: name the folder"):
        find_model(source, kind="hypernetwork")


def test_a_damaged_gguf_file_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNTOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(CheckpointError, match=r"bad\.gguf .* is truncated or damaged"):
        find_model(tmp_path / "bad.gguf")
    assert list((tmp_path / "cache").iterdir()) == []
