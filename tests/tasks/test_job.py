"""Training on a task: what is learnt, resumed, shared between devices, and refused."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import TokenEmbedder
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.files import load_model
from dyntok_jax.merging import merge_texts
from dyntok_jax.options import FULL, Merges, Merging
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.sharding import make_mesh
from dyntok_jax.tasks import (
    DrawnBatches,
    LoraOptions,
    TaskConfig,
    TaskModel,
    labelled_batch_maker,
    prepare_task,
    task_loss,
)
from dyntok_jax.text import TextEncoder
from dyntok_jax.training import OptimizerConfig, RunConfig, init_state, make_optimizer, train
from dyntok_jax.training.step import put_batch
from tests.support.tiny import write_tiny_encoder, write_tiny_hypernet

WORDS = {"good": ("Freiheit", "Gleichheit"), "bad": ("Recht", "Menschen")}
RUN = RunConfig(steps=4, validate_every=2, checkpoint_every=1, log_every=1)
QUICK = OptimizerConfig(learning_rate=1e-2, warmup=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("task")
    write_tiny_encoder(root / "model")
    write_tiny_hypernet(root / "hypernet")
    rows = [
        {"text": f"{word} und {other}", "label": label}
        for label, words in WORDS.items()
        for word in words
        for other in ("Würde", "Rechten", "alle")
    ]
    (root / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tagged = [{"tokens": ["Anna", word, "Freiheit"], "tags": ["B-PER", "O", "O"]} for word in ("und", "Recht")]
    (root / "words.jsonl").write_text("\n".join(map(json.dumps, tagged)))
    return root


@pytest.fixture(scope="module")
def embedder(tiny):
    loaded = load_model(str(tiny / "model"), None, kind="encoder")
    return TokenEmbedder(loaded.tokenizer, loaded.parameters.word_embeddings[...], None)


def config_of(tiny, task="classify", **changes) -> TaskConfig:
    file = str(tiny / ("words.jsonl" if task == "ner" else "texts.jsonl"))
    config = TaskConfig(
        task=task,
        train=(file,),
        validation=(file,),
        model=str(tiny / "model"),
        hypernet=str(tiny / "hypernet"),
        batch_size=8,
        max_length=32,
        lora=LoraOptions(rank=2, alpha=4.0),
        optimizer=QUICK,
        run=RUN,
    )
    return replace(config, **changes)


def weights(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
def test_labels_are_learnt_and_predicted_under_both_tokenizations(tiny, tmp_path):
    config = config_of(tiny, run=replace(RUN, steps=120, validate_every=120, checkpoint_every=120))
    train(prepare_task(config), tmp_path)
    model = TaskModel.load(tmp_path / "adapter", hypernet=str(tiny / "hypernet"))
    texts = [f"{words[0]} und alle" for words in WORDS.values()]
    for goal in (None, FULL):
        assert model.predict(texts, goal=goal).labels == list(WORDS)
    assert model.predict(texts).n_tokens < model.predict(texts, goal=None).n_tokens


@pytest.mark.slow
def test_a_word_has_the_label_of_its_first_token(tiny, tmp_path):
    config = config_of(tiny, "ner", run=replace(RUN, steps=30, validate_every=30, checkpoint_every=30))
    train(prepare_task(config), tmp_path)
    model = TaskModel.load(tmp_path / "adapter", hypernet=str(tiny / "hypernet"))
    found = model.predict([["Anna", "und", "Freiheit"], ["Anna", ""]])
    assert found.labels == [["B-PER", "O", "O"], ["B-PER", "O"]]


@pytest.mark.slow
def test_a_resumed_run_is_bit_for_bit_the_whole_one(tiny, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(prepare_task(config_of(tiny)), whole)

    class KilledError(Exception):
        pass

    def kill(report):
        if report.step == 3 and not report.is_validation:
            raise KilledError

    with pytest.raises(KilledError):
        train(prepare_task(config_of(tiny)), resumed, report=kill)
    train(prepare_task(config_of(tiny)), resumed, resume=True)
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "ner"])
def test_eight_devices_compute_the_loss_and_gradient_of_one(tiny, task):
    job = prepare_task(config_of(tiny, task))
    batch = next(job.batches)
    gradient = jax.jit(jax.value_and_grad(task_loss, has_aux=True))
    (alone, _), of_one = gradient(job.parameters, job.frozen, batch)
    mesh = make_mesh(4, 2)
    sharded = prepare_task(config_of(tiny, task), mesh)
    (spread, _), of_eight = gradient(sharded.parameters, sharded.frozen, put_batch(batch, mesh))
    np.testing.assert_allclose(alone, spread, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_eight), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_jit_computes_what_eager_does(tiny):
    job = prepare_task(config_of(tiny, draw="static"))
    batch = jax.tree.map(jnp.asarray, next(job.batches))
    eager, _ = task_loss(job.parameters, job.frozen, batch)
    jitted, _ = jax.jit(task_loss)(job.parameters, job.frozen, batch)
    np.testing.assert_allclose(eager, jitted, rtol=1e-6)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_batches_are_a_function_of_their_number_and_merge_to_different_lengths(tiny, per):
    batches, again = (prepare_task(config_of(tiny, per=per)).batches for _ in range(2))
    several = [next(batches) for _ in range(12)]
    again.set_state({"next": 5})
    pairs = zip(jax.tree.leaves(several[5]), jax.tree.leaves(next(again)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert len({int(batch.inputs.mask_BT.sum()) for batch in several}) > 1


def lengths(embedder, config, texts) -> list[tuple[list[int], list[int]]]:
    """For each of some batches: the numbers of its texts, and the tokens of each."""
    make_batch = labelled_batch_maker(texts, [[row] for row in range(len(texts))], embedder, config)
    batches = DrawnBatches(list(map(len, texts)), config, make_batch)
    found = []
    for batch in (next(batches) for _ in range(6)):
        found.append((batch.label_BW[:, 0].tolist(), batch.inputs.mask_BT.sum(axis=1).tolist()))
    return found


SENTENCES = [text[:60] for text in load_sample()["de"][1:5]]


@pytest.mark.parametrize(("per", "scope"), [("batch", "batch"), ("sample", "example")])
def test_a_batch_or_a_text_has_as_many_merges_as_were_asked_for(embedder, per, scope):
    config = TaskConfig("classify", draw="merges", merges=3, per=per, batch_size=3, max_length=64)
    merging = embedder.resolve(Merging(Merges(3), scope=scope), scope=scope, merge_last=True)
    for rows, found in lengths(embedder, config, SENTENCES):
        subwords = TextEncoder(embedder.tokenizer).encode([SENTENCES[row] for row in rows])
        assert found == merge_texts(subwords, merging, batch_size=3, limit=64, truncate=None).lengths.tolist()
        assert sum(found) < subwords.lengths.sum()


def test_each_text_of_a_batch_may_draw_its_own_share(embedder):
    config = TaskConfig("classify", batch_size=8, max_length=64)
    for per, is_alike in (("batch", True), ("sample", False)):
        drawn = [set(found) for _, found in lengths(embedder, replace(config, per=per), SENTENCES[-1:])]
        assert all(len(different) == 1 for different in drawn) == is_alike
        assert len(set.union(*drawn)) > 1


def test_a_text_with_a_draw_of_its_own_does_not_depend_on_its_neighbours(embedder):
    config = TaskConfig("classify", draw="fixed", share=50.0, per="sample", batch_size=3, max_length=64)
    alone = [lengths(embedder, replace(config, batch_size=1), [text])[0][1][0] for text in SENTENCES]
    for rows, found in lengths(embedder, config, SENTENCES):
        assert found == [alone[row] for row in rows]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": ()}, "nothing to train on"),
        ({"max_length": 4096}, "max_length is 4096, but the model has positions for"),
    ],
)
def test_what_a_run_cannot_do_is_refused(tiny, changes, told):
    with pytest.raises((InputError, ConfigError), match=told):
        prepare_task(config_of(tiny, **changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"share": 50.0}, "share 50.0 does nothing with draw uniform"),
        ({"draw": "fixed", "share": 101.0}, "share must be a percentage from 0 to 100"),
        ({"merges": 10}, "merges 10 does nothing with draw uniform: give --draw merges"),
        ({"draw": "merges"}, "draw merges needs their number: give --merges"),
        ({"draw": "merges", "merges": 10, "share": 50.0}, "share 50.0 does nothing with draw merges"),
        ({"draw": "merges", "merges": 0}, "merges must be 1 or more, got 0"),
        ({"draw": "static", "per": "sample"}, "per sample does nothing with draw static"),
        ({"run": replace(RUN, identity_steps=3)}, "identity_steps is for hypernetworks"),
    ],
)
def test_options_that_would_do_nothing_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        TaskConfig("classify", **changes)


@pytest.mark.parametrize("rate", [None, 3e-2])
def test_a_head_may_learn_faster_than_the_adapter(tiny, rate):
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup=0, weight_decay=0.0)
    job = prepare_task(config_of(tiny, optimizer=optimizer, head_learning_rate=rate))
    optimizer = make_optimizer(job.optimizer, 10, job.learning_rates)
    state = init_state(job.parameters, optimizer)
    with jax.numpy_dtype_promotion("standard"):  # as in a step
        updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, state.parameters), state.optimizer, state.parameters)
    # the first step of Adam has the size of the learning rate
    sizes = {path: float(jnp.abs(update).mean()) for path, update in flat_parameters(updates).items()}
    of_head = {path for path in sizes if path.startswith("replaced.head.")}
    assert 0 < len(of_head) < len(sizes)
    for path, size in sizes.items():
        assert size == pytest.approx(rate or 1e-3 if path in of_head else 1e-3, rel=1e-3), path


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_learning_rate_of_the_head_that_is_no_positive_number_is_refused(rate):
    with pytest.raises(ConfigError, match="head_learning_rate must be a positive number"):
        TaskConfig("classify", head_learning_rate=rate)


def test_a_rank_of_0_is_refused():
    with pytest.raises(ConfigError, match="rank must be 1 or more, got 0"):
        LoraOptions(rank=0)


def test_validation_labels_that_the_training_lacks_are_refused(tiny, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a", "label": "unheard"}')
    with pytest.raises(InputError, match="'unheard' are not among those of the model: bad, good"):
        prepare_task(config_of(tiny, validation=(str(other),)))


def test_texts_of_another_kind_than_the_tasks_are_refused(tiny, tmp_path):
    job = prepare_task(config_of(tiny))
    job.save(tmp_path / "adapter", job.parameters)
    model = TaskModel.load(tmp_path / "adapter", hypernet=None)
    with pytest.raises(InputError, match="takes texts, and text 1 is"):
        model.predict([("a", "pair")])
