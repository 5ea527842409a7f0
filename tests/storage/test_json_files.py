"""JSON in files: whatever is wrong with it is one error of ours, which names the file."""

import os
import threading

import pytest

from dyntok_jax.convert import load_encoder, read_config
from dyntok_jax.decoding import end_ids
from dyntok_jax.encoding import default_prompt
from dyntok_jax.errors import CheckpointError, ConfigError, DyntokError, InputError, TokenizerError
from dyntok_jax.files import convert_folder
from dyntok_jax.merging import load_merges
from dyntok_jax.storage import check_no_lfs_pointers, read_json
from dyntok_jax.text import ByteLevelTokenizer, ChatTemplate, read_aligned, read_lines
from dyntok_jax.training.data.sources import read_paragraphs
from dyntok_jax.vocabulary import load_word_list, open_table, read_vocabulary_config
from dyntok_jax.vocabulary.index import load_index
from dyntok_jax.vocabulary.row_table import as_damage
from tests.support.tiny import tiny_tokenizer, write_tiny_encoder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
DEEP = "[" * 100_000
TOKENIZER = ByteLevelTokenizer.convert(tiny_tokenizer())
READERS = {
    "config.json": (lambda folder: read_config(folder), CheckpointError),
    "model.safetensors": (lambda folder: load_encoder(folder), CheckpointError),
    "model.safetensors.index.json": (lambda folder: load_encoder(folder), CheckpointError),
    "tokenizer.json": (ByteLevelTokenizer.load, TokenizerError),
    "tokenizer_config.json": (ByteLevelTokenizer.load, TokenizerError),
    "chat_template.jinja": (ChatTemplate.load, ConfigError),
    "generation_config.json": (lambda folder: end_ids(folder, TOKENIZER), ConfigError),
    "config_sentence_transformers.json": (default_prompt, ConfigError),
    "table.json": (open_table, InputError),
    "merges.jsonl": (lambda folder: load_merges(folder / "merges.jsonl"), InputError),
    "texts.txt": (lambda folder: read_lines(str(folder / "texts.txt")), InputError),
}
IS_JSON = [name for name in READERS if name.endswith((".json", ".jsonl"))]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, '
        '"intermediate_size": 4}'
    )
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def refused(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    read, error = READERS[name]
    with pytest.raises(error) as caught:
        read(folder)
    assert name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_08_every_file_that_is_a_pointer_of_git_lfs_says_so(folder, name):
    assert "is a Git LFS pointer" in refused(folder, name, POINTER)


def test_08_vocabularies_and_indexes_that_are_pointers_say_so(folder):
    (folder / "config.json").write_text(POINTER)
    for read in (read_vocabulary_config, lambda path: load_index(path, table=None)):
        with pytest.raises(DyntokError, match="is a Git LFS pointer"):
            read(folder)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.txt", read_lines),
        ("a.txt.gz", read_lines),
        ("a.jsonl", read_aligned),
        ("a.jsonl.gz", read_aligned),
        ("a.jsonl", read_paragraphs),
        ("a.parquet", read_paragraphs),
        ("a.tsv", lambda path: load_word_list([path])),
    ],
)
def test_08_texts_that_are_pointers_say_so(tmp_path, name, read):
    path = tmp_path / name
    path.write_text(POINTER)
    with pytest.raises(InputError, match=r"is a Git LFS pointer.*git lfs pull"):
        read(str(path))


def test_08_folders_of_arrays_say_which_file_is_a_pointer(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "large").write_bytes(bytes(2000))
    check_no_lfs_pointers(tmp_path, CheckpointError)
    (tmp_path / "deep" / "0.0").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"0\.0 is a Git LFS pointer"), as_damage(tmp_path):
        raise ValueError("damage")


def test_08_orbax_folders_and_what_lies_beside_weights_say_so(tmp_path):
    write_tiny_encoder(tmp_path / "model")
    convert_folder(str(tmp_path / "model"), str(tmp_path / "orbax"))
    (tmp_path / "model" / "tokenizer.json").write_text(POINTER)
    next((tmp_path / "orbax" / "parameters").rglob("manifest.ocdbt")).write_text(POINTER)
    for name, file in (("model", "tokenizer.json"), ("orbax", "manifest.ocdbt")):
        with pytest.raises(CheckpointError, match=rf"{file} is a Git LFS pointer"):
            convert_folder(str(tmp_path / name), str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_08_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("Freiheit\n",))
    writer.start()
    assert read_lines(str(path)) == ["Freiheit"]
    writer.join()


@pytest.mark.parametrize("name", IS_JSON)
def test_20_json_nested_too_deep_is_told(folder, name):
    assert "nested too deep" in refused(folder, name, DEEP)


@pytest.mark.parametrize("name", IS_JSON)
@pytest.mark.parametrize(
    "content", [b'{"a": ' + b"1" * 5000 + b"}", b"\xff\xfe", b"[]", b"5", b"", b'{"a": 1, "a": 2}', b'"\\ud800"']
)
def test_20_what_is_no_json_object_is_told(folder, name, content):
    refused(folder, name, content)


def test_25_a_name_that_stands_twice_is_told(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"rope": {"theta": 1, "theta": 2}}')
    with pytest.raises(ConfigError, match=r'config\.json has "theta" twice: fetch it again'):
        read_json(path, ConfigError, "fetch it again")


def test_25_kinds_have_their_names(tmp_path):
    path = tmp_path / "a.jsonl"
    for line, said in (("5", "is a number, not an object"), ('{"en": 5}', "field 'en' is a number, not a text")):
        path.write_text(line)
        with pytest.raises(InputError, match=said):
            read_aligned(path)
