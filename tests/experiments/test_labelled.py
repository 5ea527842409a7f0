"""Experiments with adapters: their figures agree with one another, and bad input is refused."""

import gzip
import json
from importlib import import_module
from io import StringIO
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from dyntok_jax.adapters import LoraConfig, fresh_adapter
from dyntok_jax.errors import CheckpointError, InputError
from dyntok_jax.files import load_model
from dyntok_jax.models import SequenceHead, TokenHead
from dyntok_jax.tasks import save_task
from experiments.shared import adapters_by_name, reference_lengths
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

PAIRS = [
    {"premise": "Alle Menschen sind frei", "hypothesis": "Niemand ist frei", "label": "no"},
    {"premise": "Freiheit und Recht", "hypothesis": "Recht und Freiheit", "label": "yes"},
    {"premise": "Gleichheit", "hypothesis": "Menschen und Gleichheit", "label": "no"},
]
TAGS = ["O", "B-PER", "I-PER"]
TAGGED = [{"tokens": ["Anna", "und", "Gleichheit"], "tags": ["B-PER", "O", "O"]}] * 2
ROUNDING = 2e-3
SILENT = Console(file=StringIO())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A tiny model with its hypernetwork, labelled files, and adapters with random weights."""
    folder = tmp_path_factory.mktemp("labelled")
    write_tiny_encoder(folder / "model", max_tokens=128)
    write_tiny_hypernet(folder / "hypernet")
    loaded = load_model(str(folder / "model"), None, kind="encoder")
    kinds = {
        "nli": (SequenceHead(loaded.config, ("no", "yes"), jax.random.key(7)), "SEQ_CLS", ["no", "yes"]),
        "ner": (
            TokenHead(loaded.config, ("O", "B-PER", "I-PER"), jax.random.key(7)),
            "TOKEN_CLS",
            ["O", "B-PER", "I-PER"],
        ),
    }
    for task, (head, of_peft, labels) in kinds.items():
        config = LoraConfig(rank=2, modules_to_save=("classifier",), task=of_peft)
        for seed in range(2):
            adapter = fresh_adapter(jax.random.key(seed), config, loaded.parameters, head)
            adapter = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), adapter)
            save_task(folder / f"{task}{seed}", adapter, task={"task": task, "labels": labels}, config=loaded.config)
    for name in ("en.dev", "th.dev"):
        write_lines(folder / f"{name}.jsonl.gz", PAIRS)
    write_lines(folder / "names.test.jsonl.gz", TAGGED)
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def common(root: Path) -> dict[str, str]:
    return {"model": str(root / "model"), "hypernet": str(root / "hypernet")}


def test_adapters_of_one_name_are_kept_together():
    assert adapters_by_name(["static=a", "uniform=b", "static=c"]) == {"static": ["a", "c"], "uniform": ["b"]}


@pytest.mark.parametrize(("adapters", "message"), [((), "No adapter"), (("run/adapter",), "NAME=FOLDER")])
def test_adapters_without_a_name_or_a_folder_are_refused(adapters, message):
    with pytest.raises(InputError, match=message):
        adapters_by_name(adapters)


def test_lengths_fall_with_merges_until_no_pair_is_left(root):
    xnli = import_module("experiments.xnli")
    examples = xnli.read_sets(root, ["en"], xnli.TASK, None)["en"]
    lengths = reference_lengths(str(root / "model"), examples, [0, 1, 2, 1_000, 2_000])
    assert lengths[0] > lengths[1] > lengths[2] > lengths[1_000] == lengths[2_000]


def test_xnli_writes_figures_that_agree(root, tmp_path):
    xnli = import_module("experiments.xnli")
    outputs = {"json": tmp_path / "out.json", "table": tmp_path / "out.md", "plot": tmp_path / "out.svg"}
    adapters = tuple(f"static={root / name}" for name in ("nli0", "nli1"))
    options = xnli.Options(data=root, adapters=adapters, curve=(0, 2), shares=(100,), **common(root), **outputs)
    xnli.run(options, SILENT)
    figures = json.loads(outputs["json"].read_text(encoding="utf-8"))
    assert figures["adapters_static"] == 2
    assert figures["texts_th"] == len(PAIRS)
    one = {  # the same of each adapter alone
        name: xnli.run(
            xnli.Options(data=root, adapters=(f"static={root / name}",), shares=(100,), **common(root)), SILENT
        )
        for name in ("nli0", "nli1")
    }
    for what in ("fvt_share100_accuracy", "hypernet_share100_loss"):
        for group in ("en", "all"):
            unit = "points" if what.endswith("loss") else "percent"
            alone = [figures_of_one[f"static_{what}_{unit}_{group}"] for figures_of_one in one.values()]
            assert figures[f"static_{what}_{unit}_{group}"] == pytest.approx(np.mean(alone), abs=ROUNDING)
            assert figures[f"static_{what}_deviation_{group}"] == pytest.approx(np.std(alone, ddof=1), abs=ROUNDING)
            assert f"static_{what}_deviation_{group}" not in one["nli0"]
    for setting in ("fvt_share100", "hypernet_share100", "hypernet_merges2"):
        lost = figures["static_static_accuracy_percent_en"] - figures[f"static_{setting}_accuracy_percent_en"]
        assert figures[f"static_{setting}_loss_points_en"] == pytest.approx(lost, abs=ROUNDING)
    saved = [figures[f"static_{method}_share100_reduction_percent_en"] for method in ("fvt", "hypernet")]
    assert saved[0] == saved[1] > 0
    both = np.mean([figures[f"static_fvt_share100_accuracy_percent_{one}"] for one in ("en", "th")])
    assert figures["static_fvt_share100_accuracy_percent_all"] == pytest.approx(both, abs=ROUNDING)
    assert (
        figures["static_static_accuracy_percent_spaced"] == figures["static_static_accuracy_percent_en"]
    )  # Thai has no spaces
    table = outputs["table"].read_text(encoding="utf-8")
    assert f"{figures['static_static_accuracy_percent_all']:.1f} %" in table
    assert f"| 2 | {figures['tokens_merges2']:.3f} | 41.533 |" in table
    assert outputs["plot"].stat().st_size > 0


def test_uner_scores_entities(root):
    uner = import_module("experiments.uner")
    options = uner.Options(
        data=root, adapters=(f"a={root / 'ner0'}",), sets=("names.test",), shares=(100,), **common(root)
    )
    figures = uner.run(options, SILENT)
    assert 0 <= figures["a_static_entity_f1_percent_names.test"] <= 100
    assert figures["a_fvt_share100_reduction_percent_names.test"] > 0


def test_a_folder_without_sets_is_refused(tmp_path):
    xnli = import_module("experiments.xnli")
    with pytest.raises(InputError, match=r"no files whose names end in \.dev\.jsonl\.gz"):
        xnli.read_sets(tmp_path, (), xnli.TASK, None)


def test_all_weight_on_the_task_adapter_gives_the_task_adapters_scores(root):
    merging = import_module("experiments.adapter_merging")
    options = merging.Options(
        task_adapter=root / "nli0",
        tokenization_adapter=root / "nli1",
        data=root / "en.dev.jsonl.gz",
        methods=("linear", "dare_ties", "linear_svd"),
        weights=(1.0, 0.0),
        density=1.0,
        **common(root),
    )
    figures = merging.run(options, SILENT)
    for method in ("linear", "linear_svd"):
        assert figures[f"{method}_static_percent"] == figures["task_static_percent"]
        assert figures[f"{method}_dynamic_percent"] == figures["task_dynamic_percent"]
    assert figures["texts"] == len(PAIRS)


def test_merged_factors_are_the_weighted_adapters(root):
    merging = import_module("experiments.adapter_merging")
    config = load_model(str(root / "model"), None, kind="encoder").config
    task, other = (merging.load_adapter(root / name, config) for name in ("nli0", "nli1"))
    options = merging.Options(root, root, root, weights=(0.4, 0.6))
    merged = merging.merged_adapter(task, other, "linear", options)
    path = next(iter(task.maps))
    scales = [np.sqrt(weight * one.maps[path].scales[0]) for weight, one in ((0.4, task), (0.6, other))]
    expected = scales[0] * task.maps[path].a + scales[1] * other.maps[path].a
    np.testing.assert_allclose(merged.maps[path].a, expected, rtol=1e-5)
    assert merged.replaced.keys() == task.replaced.keys()


def test_unknown_methods_and_folders_are_refused(root, tmp_path):
    merging = import_module("experiments.adapter_merging")
    data = root / "en.dev.jsonl.gz"
    with pytest.raises(InputError, match="Unknown method 'best': choose from linear"):
        merging.run(merging.Options(root / "nli0", root / "nli1", data, methods=("best",), **common(root)), SILENT)
    with pytest.raises(CheckpointError, match=r"has no dyntok_task\.json"):
        merging.run(merging.Options(tmp_path, root / "nli1", data, **common(root)), SILENT)


@pytest.mark.slow
def test_bench_tasks_compares_gains_with_padded_tokens(root):
    bench = import_module("experiments.bench_tasks")
    train = (str(root / "en.dev.jsonl.gz"),)
    options = bench.Options(root, root / "nli0", train, languages=("en",), steps=2, rounds=1, model=str(root / "model"))
    figures = bench.run(options, SILENT)
    for what in ("prediction", "training"):
        tokens = figures[f"{what}_static_padded_tokens"] / figures[f"{what}_dynamic_padded_tokens"]
        assert figures[f"{what}_padded_token_ratio"] == pytest.approx(tokens, rel=1e-3)
        assert figures[f"{what}_gain"] > 0
    assert figures["prediction_dynamic_tokens"] < figures["prediction_static_tokens"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ("th",), "curve": (0,)}, "measured on en, which is not among the sets"),
        ({"plot": Path("curve.svg")}, "The plot shows the curve"),
    ],
)
def test_a_curve_that_cannot_be_measured_is_refused(root, options, message):
    xnli = import_module("experiments.xnli")
    with pytest.raises(InputError, match=message):
        xnli.run(xnli.Options(data=root, adapters=(f"a={root / 'nli0'}",), **common(root), **options), SILENT)
