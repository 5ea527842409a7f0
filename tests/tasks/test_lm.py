"""Training a decoder to read merged prompts: what is read and learnt, resumed, shared between devices, and used."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax import DynamicDecoder
from dyntok_jax.adapters import fold_adapters
from dyntok_jax.assets import load_sample
from dyntok_jax.errors import CheckpointError, ConfigError, InputError
from dyntok_jax.models import embed_ids, forward, logits
from dyntok_jax.options import FULL, Merging, Share
from dyntok_jax.sharding import make_mesh
from dyntok_jax.tasks import LoraOptions, TaskConfig, TaskModel, lm_texts, prepare_task
from dyntok_jax.tasks.lm_batch import lm_batch_maker
from dyntok_jax.text import ChatTemplate, TextEncoder
from dyntok_jax.training import OptimizerConfig, RunConfig, train
from dyntok_jax.training.step import put_batch
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet, write_tiny_encoder

RUN = RunConfig(steps=4, validate_every=2, checkpoint_every=1, log_every=1)
QUICK = OptimizerConfig(learning_rate=1e-2, warmup=0)
ROWS = [
    {"prompt": f"{word} und", "completion": f" {answer}"}
    for word, answer in (
        ("Gleichheit", "Recht"),
        ("Menschenrechte", "Freiheit"),
        ("Staatsangehörigkeit", "Familie"),
        ("Gemeinschaft", "Arbeit"),
    )
]
CHAT = [{"role": "user", "content": "Gleichheit?"}, {"role": "assistant", "content": "Recht"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("lm")
    write_tiny_decoder(root / "model")
    write_tiny_decoder_hypernet(root / "hypernet", root / "model", separate_output=True)
    texts = {"rows": ROWS, "texts": [{"text": text} for text in load_sample()["de"][:4]], "chats": [{"messages": CHAT}]}
    for name, rows in texts.items():
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def decoder(tiny):
    return DynamicDecoder.load(tiny / "model", tiny / "hypernet")


def config_of(tiny, name="rows", **changes) -> TaskConfig:
    file = str(tiny / f"{name}.jsonl")
    config = TaskConfig(
        "lm",
        train=(file,),
        validation=(file,),
        model=str(tiny / "model"),
        hypernet=str(tiny / "hypernet"),
        batch_size=4,
        max_length=64,
        lora=LoraOptions(rank=4, alpha=8.0),
        optimizer=QUICK,
        run=RUN,
    )
    return replace(config, **changes)


def texts_of(decoder, examples, *, max_length=64):
    chat = ChatTemplate(decoder.chat.source, decoder.chat.special_tokens, decoder.chat.where)
    sizes = {"end_ids": decoder.end_ids, "boundary": "pretoken", "max_length": max_length}
    return lm_texts(examples, TextEncoder(decoder.tokenizer), chat, **sizes)


def weights(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


# ---- what is read, and what is learnt


@pytest.mark.parametrize("goal", [None, Share(0), Share(50), FULL])
def test_a_prompt_is_read_as_the_decoder_reads_it_and_its_answer_is_scored_alike(tiny, decoder, goal):
    job = prepare_task(config_of(tiny))
    prompts, answers = ([row[name] for row in ROWS] for name in ("prompt", "completion"))
    texts = texts_of(decoder, list(zip(prompts, answers, strict=True)))
    batch = lm_batch_maker(texts, decoder.embedder, config_of(tiny, batch_size=5))(np.arange(4), goal, None)
    assert batch.dynamic.n_prompt_B[:4].tolist() == decoder.read(prompts, goal=goal).n_tokens.tolist()
    _, metrics = jax.jit(job.loss)(job.parameters, job.frozen, jax.tree.map(jnp.asarray, batch))
    ids = [texts.answers[row].tolist() for row in range(4)]
    assert all(one[-1] in decoder.end_ids for one in ids)
    scored = decoder.score(prompts, ids, goal=goal)
    expected = -sum(one.total for one in scored) / sum(map(len, ids))
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)


def test_merging_shortens_prompts_and_leaves_answers_alone(tiny):
    job = prepare_task(config_of(tiny, draw="fixed", share=100.0, per="sample"))
    full, static = next(job.batches), next(prepare_task(config_of(tiny, draw="static")).batches)
    np.testing.assert_array_equal(full.answer_BO, static.answer_BO)
    assert (full.dynamic.n_prompt_B < static.dynamic.n_prompt_B).all()
    assert static.dynamic.inputs.row_BT is None


def test_a_long_text_is_cut_into_windows_whose_halves_make_it_up(decoder):
    text = " ".join(load_sample()["de"][:6])
    texts = texts_of(decoder, [text], max_length=48)
    assert len(texts.prompts) > 3
    assert max(texts.n_tokens) <= 48
    own = decoder.tokenizer.own
    halves = [prompt + own.decode(ids.tolist()) for prompt, ids in zip(texts.prompts, texts.answers, strict=True)]
    assert text.startswith("".join(halves))
    assert len("".join(halves)) > 0.9 * len(text)
    sizes = [(n, len(ids)) for n, ids in zip(texts.n_tokens, texts.answers, strict=True)]
    assert all(0.2 < n_answer / n < 0.8 for n, n_answer in sizes)


def test_a_text_that_is_one_segment_is_cut_between_its_pretokens(decoder):
    text = " ".join(load_sample()["de"][:2])
    texts = [
        lm_texts([text], TextEncoder(decoder.tokenizer), None, end_ids=(), boundary=boundary, max_length=48)
        for boundary in ("sentence", "pretoken")
    ]
    assert texts[0].prompts == texts[1].prompts != []


def test_an_answer_in_a_chat_is_learnt_with_the_token_that_ends_it(decoder):
    texts = texts_of(decoder, [CHAT])
    assert texts.prompts == ["<s>user\nGleichheit?</s>\n<s>assistant\n"]
    assert decoder.tokenizer.own.decode(texts.answers[0].tolist(), skip_special_tokens=False) == "Recht</s>"
    assert decoder.read([CHAT[:1]]).texts == texts.prompts


def test_special_tokens_that_are_written_in_a_chat_are_text(decoder):
    turns = [{"role": "user", "content": "a</s>b"}, {"role": "assistant", "content": "c</s>d"}]
    texts = texts_of(decoder, [turns])
    (end,) = decoder.end_ids
    assert [index == end for index in texts.answers[0]] == [False] * (len(texts.answers[0]) - 1) + [True]
    batch = lm_batch_maker(texts, decoder.embedder, TaskConfig("lm", batch_size=1))(np.arange(1), None, None)
    n_prompt = batch.dynamic.n_prompt_B[0]
    assert decoder.read([turns[:1]]).n_tokens.tolist() == [n_prompt]
    assert (batch.dynamic.inputs.ids_BT[0, :n_prompt] == end).sum() == 1


def test_padding_costs_no_loss(tiny, decoder):
    job = prepare_task(config_of(tiny, distill=1.0))
    texts = texts_of(decoder, [(row["prompt"], row["completion"]) for row in ROWS[:2]])
    losses = []
    for n_batch in (2, 6):
        make_batch = lm_batch_maker(texts, decoder.embedder, config_of(tiny, batch_size=n_batch, distill=1.0))
        batch = jax.tree.map(jnp.asarray, make_batch(np.arange(2), FULL, None))
        losses.append({name: float(value) for name, value in job.loss(job.parameters, job.frozen, batch)[1].items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def random_adapter(job, spread=0.1):
    def draw(leaf):
        return leaf + spread * jax.random.normal(jax.random.key(7), leaf.shape, leaf.dtype)

    return jax.tree.map(draw, job.parameters)


def test_the_teacher_is_the_model_without_the_adapter_on_the_static_prompt(tiny):
    job = prepare_task(config_of(tiny, draw="fixed", share=100.0, distill=0.5, batch_size=1))
    batch, adapter = next(job.batches), random_adapter(job)
    n_answer = batch.n_labels
    batch = jax.tree.map(jnp.asarray, batch)
    loss, metrics = job.loss(adapter, job.frozen, batch)
    assert float(loss) == pytest.approx(float(metrics["cross_entropy"] + 0.5 * metrics["divergence"]), rel=1e-6)
    ids_BT, n_prompt = batch.static.inputs.ids_BT, int(batch.static.n_prompt_B[0])
    hidden_BTD = forward(job.frozen, embed_ids(job.frozen, ids_BT), batch.static.inputs.mask_BT)
    wanted = jax.nn.log_softmax(logits(job.frozen, hidden_BTD)[0, n_prompt - 1 :][:n_answer], axis=-1)
    adapted = fold_adapters(job.frozen, [adapter])
    inputs, n_merged = batch.dynamic.inputs, int(batch.dynamic.n_prompt_B[0])
    rows_BTD = jnp.where(
        (inputs.row_BT >= 0)[..., None],
        inputs.rows_RD[jnp.maximum(inputs.row_BT, 0)],
        embed_ids(adapted, inputs.ids_BT),
    )
    found = logits(adapted, forward(adapted, rows_BTD, inputs.mask_BT))[0, n_merged - 1 :][:n_answer]
    found = jax.nn.log_softmax(found, axis=-1)
    expected = (jnp.exp(wanted) * (wanted - found)).sum(axis=-1).mean()
    assert float(metrics["divergence"]) == pytest.approx(float(expected), rel=1e-3)
    assert n_merged < n_prompt


def test_an_adapter_that_is_nothing_yet_does_not_diverge_on_static_prompts(tiny):
    job = prepare_task(config_of(tiny, draw="static", distill=1.0))
    _, metrics = jax.jit(job.loss)(job.parameters, job.frozen, next(job.batches))
    assert float(metrics["divergence"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_layers_that_are_computed_again_give_the_same_gradient(tiny):
    job = prepare_task(config_of(tiny, distill=0.5))
    batch, adapter = next(job.batches), random_adapter(job)
    kept, again = (
        jax.jit(jax.grad(partial(job.loss, remat=remat), has_aux=True))(adapter, job.frozen, batch)[0]
        for remat in (False, True)
    )
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(again))


# ---- runs


@pytest.mark.slow
def test_a_decoder_learns_to_read_merged_prompts_and_its_scores_change_accordingly(tiny, decoder, tmp_path):
    run = replace(RUN, steps=60, validate_every=30, checkpoint_every=60)
    reports = []
    config = config_of(tiny, draw="fixed", share=100.0, run=run)
    train(prepare_task(config), tmp_path, report=reports.append)
    before, after = (report.metrics for report in reports if report.is_validation and report.step in (30, 60))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if "validation_full_loss" in line)
    assert first["step"] == 0
    assert after["full_loss"] < 0.5 * first["validation_full_loss"]
    assert after["full_bits_per_byte"] < 0.5 * first["validation_full_bits_per_byte"]
    assert before.keys() == after.keys()
    adapted = DynamicDecoder.load(tiny / "model", tiny / "hypernet", adapter=tmp_path / "adapter")
    prompts = [row["prompt"] for row in ROWS]
    ids = [texts.tolist() for texts in texts_of(decoder, [tuple(row.values()) for row in ROWS]).answers]

    def cross_entropy(model):
        scored = model.score(prompts, ids, merging=Merging(FULL))
        return -sum(one.total for one in scored) / sum(map(len, ids))

    assert cross_entropy(decoder) == pytest.approx(first["validation_full_loss"], rel=1e-3)
    assert cross_entropy(adapted) == pytest.approx(after["full_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_resumed_run_is_bit_for_bit_the_whole_one(tiny, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config = config_of(tiny, "texts", distill=0.5)
    train(prepare_task(config), whole)

    class KilledError(Exception):
        pass

    def kill(report):
        if report.step == 3 and not report.is_validation:
            raise KilledError

    with pytest.raises(KilledError):
        train(prepare_task(config), resumed, report=kill)
    train(prepare_task(config), resumed, resume=True)
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)


@pytest.mark.slow
def test_eight_devices_compute_the_loss_and_gradient_of_one(tiny):
    config = config_of(tiny, distill=0.5, remat=True)
    job = prepare_task(config)
    batch, adapter = next(job.batches), random_adapter(job)
    gradient = jax.jit(jax.value_and_grad(job.loss, has_aux=True))
    (alone, _), of_one = gradient(adapter, job.frozen, batch)
    mesh = make_mesh(4, 2)
    sharded = prepare_task(config, mesh)
    (spread, _), of_eight = gradient(adapter, sharded.frozen, put_batch(batch, mesh))
    np.testing.assert_allclose(alone, spread, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_eight), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_batches_are_a_function_of_their_number(tiny):
    batches, again = (prepare_task(config_of(tiny, "texts", per="sample")).batches for _ in range(2))
    several = [next(batches) for _ in range(6)]
    again.set_state({"next": 5})
    pairs = zip(jax.tree.leaves(several[5]), jax.tree.leaves(next(again)), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert len({int(batch.dynamic.n_prompt_B.sum()) for batch in several}) > 1


# ---- refused


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"label": "good"}], r"line 1 lacks text, prompt and completion, or messages, which lm reads: it has label"),
        ([{"prompt": "a"}], "line 1: completion must be text, and not empty"),
        ([{"prompt": "", "completion": "b"}], "line 1: prompt must be text, and not empty"),
        ([{"text": 3}], "line 1: text must be text, and not empty"),
        (["a"], "line 1 must be a JSON object with text"),
        ([{"messages": [{"role": "user"}]}], "line 1: messages must be a list of turns with a role and a content"),
        ([{"messages": CHAT[:1]}], "line 1: messages must end with a turn of the role assistant"),
        ([{"messages": CHAT}, {"text": "a b"}], "The files mix chats with other texts"),
        ([{"text": "a"}], "No text has two segments"),
        (
            [{"prompt": "a b " * 60, "completion": "c"}],
            r"1 of 1 prompts leave no room for an answer: .* max_length is 64",
        ),
        ([], "holds no example"),
    ],
)
def test_files_that_hold_something_else_are_refused(tiny, tmp_path, rows, told):
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=told):
        prepare_task(config_of(tiny, train=(str(tmp_path / "texts.jsonl"),), validation=()))


def test_a_chat_needs_a_template_that_begins_an_answer_as_it_writes_one(tiny, decoder, tmp_path):
    write_tiny_decoder(tmp_path / "model", has_template=False)
    with pytest.raises(ConfigError, match="the model has no chat template"):
        prepare_task(config_of(tiny, "chats", model=str(tmp_path / "model"), hypernet="none"))
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(InputError, match=r"begins an answer with 'Gleichheit\?<think>' and does not write"):
        lm_texts(
            [CHAT],
            TextEncoder(decoder.tokenizer),
            ChatTemplate(source, {}, "here"),
            end_ids=(),
            boundary="pretoken",
            max_length=64,
        )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prefix": "query: "}, "prefix is for tasks with labels, not for lm"),
        ({"head_learning_rate": 1e-3}, "head_learning_rate is for tasks with labels, not for lm"),
        ({"distill": -1.0}, "distill must be a number, 0 or more, got -1.0"),
        ({"distill": float("nan")}, "distill must be a number, 0 or more, got nan"),
    ],
)
def test_options_that_would_do_nothing_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        TaskConfig("lm", **changes)


@pytest.mark.parametrize("changes", [{"distill": 1.0}, {"remat": True}])
def test_options_of_lm_are_refused_for_tasks_with_labels(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} is for the task lm"):
        TaskConfig("nli", **changes)


def test_a_task_has_a_packaged_model_of_its_kind():
    assert [TaskConfig(task).model for task in ("nli", "lm")] == ["e5-small", "smollm2"]


def test_what_a_run_cannot_do_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="max_length is 4096, but the model has positions for 512 tokens"):
        prepare_task(config_of(tiny, max_length=4096))
    write_tiny_encoder(tmp_path / "encoder")
    with pytest.raises(ConfigError, match="xlm-roberta"):
        prepare_task(config_of(tiny, model=str(tmp_path / "encoder"), hypernet="none"))


def test_the_adapter_is_no_task_with_labels_and_of_one_model(tiny, tmp_path):
    job = prepare_task(config_of(tiny))
    job.save(tmp_path / "adapter", job.parameters)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["task_type"], written["base_model_name_or_path"]) == ("CAUSAL_LM", str(tiny / "model"))
    with pytest.raises(CheckpointError, match="An adapter of --task lm is for `dyntok generate`"):
        TaskModel.load(tmp_path / "adapter")
    write_tiny_decoder(tmp_path / "other", n_heads=8)
    with pytest.raises(CheckpointError, match=r"^The adapter of .* is of another model:"):
        DynamicDecoder.load(tmp_path / "other", None, adapter=tmp_path / "adapter")
