"""Static figures in mteb are those of sentence-transformers on the same weights."""

import json
from typing import ClassVar

import mteb
import pytest
from datasets import load_dataset
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SentenceTransformerEncoderWrapper

from dyntok_jax import DynamicEncoder, Merging, Share
from dyntok_jax.harnesses import MtebEncoder
from dyntok_jax.options import STATIC
from tests.support.tiny import write_sentence_modules, write_tiny_encoder

PAIRS = [
    {"sentence1": "Freiheit und Gleichheit", "sentence2": "Gleichheit und Freiheit", "score": 5.0},
    {"sentence1": "All human beings are born free.", "sentence2": "Everyone has the right to life.", "score": 2.5},
    {"sentence1": "Niemand darf gefoltert werden.", "sentence2": "All human beings " * 30, "score": 0.0},
    {"sentence1": "Everyone is free.", "sentence2": "Everyone has freedom.", "score": 4.0},
    {"sentence1": "Hür ve eşit doğarlar.", "sentence2": "They are born free and equal.", "score": 3.0},
]


class LocalPairs(AbsTaskSTS):
    """Pairs of a JSON file."""

    metadata = TaskMetadata(
        type="STS",
        name="LocalPairs",
        main_score="cosine_pearson",
        dataset={"path": "local/made-up", "revision": "1"},
        description="made up",
        reference=None,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )
    path: ClassVar[str]

    def load_data(self, **_):
        self.dataset = load_dataset("json", data_files={"test": self.path})
        self.data_loaded = True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mteb and what it imports
def test_static_figures_are_those_of_sentence_transformers(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    folder, pairs = tmp_path / "model", tmp_path / "pairs.jsonl"
    write_tiny_encoder(folder)
    write_sentence_modules(folder, pooling={"pooling_mode_mean_tokens": True}, longest=64)
    tokens = {"pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    prompts = {"prompts": {"query": "query: ", "document": "passage: ", "STS": "same? "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    monkeypatch.setattr(LocalPairs, "path", str(pairs), raising=False)

    def figures(model):
        results = mteb.evaluate(model, LocalPairs(), cache=None, show_progress_bar=False, co2_tracker=False)
        (scores,) = results.task_results[0].scores["test"]
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    encoder = DynamicEncoder.load(folder)
    theirs = figures(SentenceTransformerEncoderWrapper(str(folder), device="cpu"))
    assert {"cosine_pearson", "cosine_spearman", "euclidean_pearson"} <= set(theirs)
    assert figures(MtebEncoder(encoder, "tiny", merging=STATIC)) == pytest.approx(theirs, abs=1e-4)
    merged = figures(MtebEncoder(encoder, "tiny", merging=Merging(Share(100))))
    assert abs(merged["cosine_pearson"] - theirs["cosine_pearson"]) > 1e-3
