"""An encoder in mteb: real evaluations of tasks over local files, with the prompts of each kind of task."""

import json
from typing import ClassVar

import mteb
import numpy as np
import pytest
from datasets import Dataset, load_dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.cache import ResultCache
from mteb.types import PromptType
from scipy.stats import spearmanr

from dyntok_jax import DynamicEncoder, Merging, Share
from dyntok_jax.errors import InputError
from dyntok_jax.harnesses import MtebEncoder
from dyntok_jax.merging import MergeList
from dyntok_jax.options import STATIC
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

pytestmark = pytest.mark.filterwarnings("ignore")  # of mteb and what it imports
PAIRS = [
    {"sentence1": "Freiheit und Gleichheit", "sentence2": "Gleichheit und Freiheit", "score": 5.0},
    {"sentence1": "All human beings are born free.", "sentence2": "Everyone has the right to life.", "score": 2.0},
    {"sentence1": "Niemand darf gefoltert werden.", "sentence2": "All human beings", "score": 0.0},
    {"sentence1": "Everyone is free.", "sentence2": "Everyone has freedom.", "score": 4.0},
]
CORPUS = [
    {"id": "d1", "text": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. " * 9},  # too long
    {"id": "d2", "text": "Niemand darf der Folter unterworfen werden."},
    {"id": "d3", "text": "Everyone has the right to life, liberty and security of person."},
]
QUERIES = [{"id": "q1", "text": "Wer ist frei und gleich?"}, {"id": "q2", "text": "Who has the right to life?"}]
RELEVANT = {"q1": {"d1": 1}, "q2": {"d3": 1}}
PROMPTS = {"query": "query: ", "document": "passage: ", "STS": "same? "}
COMMON = {
    "dataset": {"path": "local/made-up", "revision": "1"},
    "description": "made up",
    "reference": None,
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
}


class LocalSTS(AbsTaskSTS):
    """Pairs of a JSON file."""

    metadata = TaskMetadata(type="STS", name="LocalSTS", main_score="cosine_spearman", **COMMON)
    path: ClassVar[str]

    def load_data(self, **_):
        self.dataset = load_dataset("json", data_files={"test": self.path})
        self.data_loaded = True


class LocalRetrieval(AbsTaskRetrieval):
    """Queries and documents of a JSON file."""

    metadata = TaskMetadata(type="Retrieval", name="LocalRetrieval", main_score="ndcg_at_10", **COMMON)
    path: ClassVar[str]

    def load_data(self, **_):
        with open(self.path, encoding="utf-8") as file:
            rows = json.load(file)
        split = {"queries": Dataset.from_list(rows["queries"]), "corpus": Dataset.from_list(rows["corpus"])}
        self.dataset = {"default": {"test": split | {"relevant_docs": rows["relevant"], "top_ranked": None}}}
        self.data_loaded = True


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_encoder(folder / "model")
    write_tiny_hypernet(folder / "hypernet")
    return DynamicEncoder.load(folder / "model", folder / "hypernet")


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    pairs, rows = tmp_path / "pairs.json", tmp_path / "rows.json"
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    rows.write_text(json.dumps({"queries": QUERIES, "corpus": CORPUS, "relevant": RELEVANT}), encoding="utf-8")
    monkeypatch.setattr(LocalSTS, "path", str(pairs), raising=False)
    monkeypatch.setattr(LocalRetrieval, "path", str(rows), raising=False)
    return [LocalSTS(), LocalRetrieval()]


@pytest.fixture
def evaluated(tasks, tmp_path):
    """A function that evaluates a model on both tasks; gives the scores of each, and the folder of results."""

    def evaluate(model):
        cache = ResultCache(tmp_path / "results")
        results = mteb.evaluate(model, tasks, cache=cache, show_progress_bar=False, co2_tracker=False)
        return {one.task_name: one.scores["test"][0] for one in results.task_results}

    return evaluate


@pytest.mark.parametrize("merging", [STATIC, Merging(Share(100))], ids=["static", "merged"])
def test_scores_are_those_of_the_encoder_s_own_embeddings(encoder, evaluated, merging):
    model = MtebEncoder(encoder, "tiny", merging=merging, prompts=PROMPTS)
    scores = evaluated(model)

    def embedded(texts, prefix):
        return encoder.encode(texts, merging=merging, prefix=prefix, truncate=True).embeddings_ND

    first, second = (embedded([pair[side] for pair in PAIRS], "same? ") for side in ("sentence1", "sentence2"))
    cosines = (first * second).sum(axis=1)
    expected = spearmanr(cosines, [pair["score"] for pair in PAIRS]).statistic
    assert scores["LocalSTS"]["cosine_spearman"] == pytest.approx(expected, abs=1e-6)

    found = (
        embedded([row["text"] for row in QUERIES], "query: ") @ embedded([row["text"] for row in CORPUS], "passage: ").T
    )
    documents = [row["id"] for row in CORPUS]
    gains = []
    for query, row in zip(QUERIES, found, strict=True):
        ((relevant, _),) = RELEVANT[query["id"]].items()
        rank = int((row > row[documents.index(relevant)]).sum()) + 1
        gains.append(1 / np.log2(1 + rank))
    assert scores["LocalRetrieval"]["ndcg_at_10"] == pytest.approx(np.mean(gains), abs=1e-5)
    if merging.is_static:
        assert model.reduction_percent == pytest.approx(0, abs=1e-9)
    else:
        assert 20 < model.reduction_percent < 90  # the tiny vocabulary knows few words


def test_results_of_other_mergings_are_not_taken_from_the_cache(encoder, evaluated):
    static = evaluated(MtebEncoder(encoder, "tiny", merging=STATIC))
    merged = MtebEncoder(encoder, "tiny")
    assert evaluated(merged) != static
    assert merged.reduction_percent is not None  # it was asked
    again = MtebEncoder(encoder, "tiny")
    evaluated(again)
    assert again.reduction_percent is None  # its own results were there


def test_every_setting_has_results_of_its_own(encoder):
    lists = [MergeList((((3,), (right,)),), encoder.tokenizer.fingerprint, "pretoken", 7) for right in (4, 5)]
    mergings = [STATIC, *(Merging(merge_list=one) for one in lists), Merging(scope="example")]
    mergings += [Merging(Share(50)), Merging(pretoken_merges=2), Merging(positions="subwords")]
    settings = [{}, {"prompts": PROMPTS}, {"language": "de"}, *({"merging": merging} for merging in mergings)]
    models = [MtebEncoder(encoder, "tiny", **options) for options in settings]
    assert len({model.mteb_model_meta.model_name_with_experiment for model in models}) == len(settings)


def test_prompts_are_looked_for_by_kind_of_task_then_by_side(encoder):
    prompts = {"Retrieval-query": "find: ", "Retrieval": "in: ", "query": "q: ", "STS": "same? "}
    model = MtebEncoder(encoder, "tiny", prompts=prompts)
    sts, retrieval = LocalSTS.metadata, LocalRetrieval.metadata
    assert model.prefix(retrieval, PromptType.query) == "find: "
    assert model.prefix(retrieval, PromptType.document) == "in: "
    assert model.prefix(sts) == "same? "
    reranking = retrieval.model_copy(update={"type": "Reranking"})
    assert model.prefix(reranking, PromptType.query) == "q: "
    assert model.prefix(reranking, PromptType.document) == encoder.prefix


def test_without_prompts_those_of_the_model_s_folder_are_taken(tmp_path):
    write_tiny_encoder(tmp_path)
    declared = {"prompts": {"query": "query: ", "passage": "passage: ", "s2p": "x"}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(declared))
    model = MtebEncoder(DynamicEncoder.load(tmp_path, None), "tiny")
    assert model.model_prompts == {"query": "query: ", "document": "passage: "}
    assert model.prefix(LocalRetrieval.metadata, PromptType.document) == "passage: "
    assert model.prefix(LocalSTS.metadata) == "query: "  # its default


def test_what_it_cannot_do_is_refused(encoder):
    with pytest.raises(InputError, match="no type of task 'Retreival-query'"):
        MtebEncoder(encoder, "tiny", prompts={"Retreival-query": "x"})
    with pytest.raises(InputError, match="name is empty"):
        MtebEncoder(encoder, "")
    model = MtebEncoder(encoder, "tiny")
    with pytest.raises(InputError, match="no option precision='int8'"):
        model.encode([{"text": ["x"]}], task_metadata=LocalSTS.metadata, precision="int8")
    with pytest.raises(InputError, match="LocalSTS has image: only texts"):
        model.encode([{"image": ["x"]}], task_metadata=LocalSTS.metadata)
