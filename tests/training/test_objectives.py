"""Objectives equal plain loops over texts and tokens, and only the hypernetwork learns from them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dyntok_jax.embedding import average_embeddings, init_hypernet, predict_embeddings
from dyntok_jax.errors import ConfigError
from dyntok_jax.models import decoder as decoders, mlm_features
from dyntok_jax.training import (
    Objectives,
)
from dyntok_jax.training.data import PieceBatch, SurfaceForms, TextBatch, TrainingBatch
from dyntok_jax.training.objectives import (
    freeze,
    hidden_states,
    mean_by_chunks,
    next_subword_divergence,
    piece_terms,
    token_rows,
    total_loss,
)
from tests.support.tiny_training import (
    KINDS,
    MASK_ROW,
    QUICKLY,
    D,
    V,
    random_batch,
    random_hypernet,
    random_texts,
    tiny_frozen,
)

WEIGHTS = {
    "encoder": Objectives(pieces=0.5, sentences=2.0, hidden=1.0, language_model=0.25),
    "decoder": Objectives(pieces=0.5, hidden=1.0, next_subword=0.5, language_model=0.25),
}
loss_and_gradient = jax.jit(jax.value_and_grad(total_loss, has_aux=True), static_argnums=3, compiler_options=QUICKLY)
states = jax.jit(hidden_states)


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def case(kind):
    """Hypernetwork, model, batch, and what `total_loss` says of them."""
    hypernet, frozen, batch = random_hypernet(kind, residual=True), tiny_frozen(kind), random_batch()
    (loss, metrics), gradient = loss_and_gradient(hypernet, frozen, batch, WEIGHTS[kind])
    return hypernet, frozen, batch, loss, metrics, gradient


@pytest.fixture(scope="module")
def rows(case):
    """Input rows, output rows and biases of the batch's tokens, one prediction at a time."""
    hypernet, frozen, batch, *_ = case
    texts = batch.texts
    predict = jax.jit(predict_embeddings)
    inputs, outputs, biases = [], [], []
    for surface_S, is_subword_S in zip(texts.forms.surface_PS, texts.forms.is_subword_PS, strict=True):
        found = predict(hypernet, surface_S[None], is_subword_S[None], frozen.source_VM)
        inputs.append(found.input_UD[0])
        outputs.append(found.input_UD[0] if found.output_UD is None else found.output_UD[0])
        biases.append(0.0 if found.bias_U is None else found.bias_U[0])
    for kept in texts.kept_K:
        row = np.asarray(frozen.source_VM)[kept]
        inputs.append(row[:D])
        outputs.append(row[-D:])
        biases.append(0.0 if frozen.head is None else np.asarray(frozen.head.bias)[kept])
    return np.array(inputs), np.array(outputs), np.array(biases)


def hidden_of(case, rows) -> tuple[np.ndarray, np.ndarray]:
    """Static and dynamic hidden states."""
    _, frozen, batch, *_ = case
    texts = batch.texts
    static = np.asarray(frozen.body.word_embeddings)[texts.static_BL]
    return (
        np.asarray(states(frozen.body, static, texts.static_mask_BL)),
        np.asarray(states(frozen.body, rows[0][texts.row_BT], texts.mask_BT)),
    )


def cosine(a, b) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def log_softmax(scores) -> np.ndarray:
    return scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())


def assert_trees_close(one, other, tolerance=2e-5) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ---- each objective against a loop


@pytest.mark.slow
def test_pieces(case):
    hypernet, frozen, batch, _, metrics, _ = case
    found = jax.jit(predict_embeddings)(
        hypernet, batch.pieces.forms.surface_PS, batch.pieces.forms.is_subword_PS, frozen.source_VM
    )
    tables = np.split(np.asarray(frozen.source_VM), frozen.source_VM.shape[1] // D, axis=1)
    cosines, errors = [], []
    for table_VD, predicted_PD in zip(tables, (found.input_UD, found.output_UD), strict=False):
        for predicted_D, target in zip(np.asarray(predicted_PD), batch.pieces.target_P, strict=True):
            cosines.append(cosine(predicted_D, table_VD[target]))
            errors.append(np.mean((predicted_D - table_VD[target]) ** 2 / table_VD.var(axis=0)))
    assert metrics["pieces"] == pytest.approx(1 - np.mean(cosines) + np.mean(errors), rel=1e-4)
    assert metrics["piece_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)


@pytest.mark.slow
def test_sentences(case, rows, kind):
    if kind == "decoder":
        pytest.skip("the decoder's sum has no sentences")
    _, _, batch, _, metrics, _ = case
    static, dynamic = hidden_of(case, rows)
    masks = batch.texts.static_mask_BL, batch.texts.mask_BT
    distance = [
        1 - cosine(s[m].mean(axis=0), d[n].mean(axis=0)) for s, d, m, n in zip(static, dynamic, *masks, strict=True)
    ]
    assert metrics["sentences"] == pytest.approx(np.mean(distance), rel=1e-4)


def test_hidden(case, rows):
    _, _, batch, _, metrics, _ = case
    static, dynamic = hidden_of(case, rows)
    errors = [
        np.sum((dynamic[row, token] - static[row, at]) ** 2) / np.sum(static[row, at] ** 2)
        for row, aligned_T in enumerate(batch.texts.aligned_BT)
        for token, at in enumerate(aligned_T)
        if at >= 0
    ]
    assert metrics["hidden"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_next_subword(case, rows, kind):
    if kind == "encoder":
        pytest.skip("an encoder predicts no next subword")
    _, frozen, batch, _, metrics, _ = case
    static, dynamic = hidden_of(case, rows)
    table_VD = np.asarray(frozen.body.output_embeddings)
    divergences = []
    for row, aligned_T in enumerate(batch.texts.aligned_BT):
        for token, at in enumerate(aligned_T):
            if at >= 0:
                wanted_V, found_V = (
                    log_softmax(table_VD @ hidden) for hidden in (static[row, at], dynamic[row, token])
                )
                divergences.append(np.sum(np.exp(wanted_V) * (wanted_V - found_V)))
    assert metrics["next_subword"] == pytest.approx(np.mean(divergences), rel=1e-4)


def test_language_model(case, rows, kind):
    _, frozen, batch, _, metrics, _ = case
    texts = batch.texts
    input_RD, output_RD, bias_R = rows
    embeddings_BTD = input_RD[texts.row_BT]
    if kind == "encoder":  # asked at the hidden token itself
        embeddings_BTD = np.where(texts.is_masked_BT[..., None], np.asarray(frozen.source_VM)[MASK_ROW], embeddings_BTD)
    hidden_BTD = states(frozen.body, embeddings_BTD, texts.mask_BT)
    if kind == "encoder":
        hidden_BTD = jax.jit(mlm_features)(frozen.head, hidden_BTD)
    surprises = []
    for row, mask_T in enumerate(texts.mask_BT):
        for token in np.flatnonzero(texts.is_masked_BT[row] if kind == "encoder" else mask_T):
            label, before = texts.row_BT[row, token], token if kind == "encoder" else token - 1
            if before >= 0:
                surprises.append(-log_softmax(output_RD @ np.asarray(hidden_BTD)[row, before] + bias_R)[label])
    assert metrics["language_model"] == pytest.approx(np.mean(surprises), rel=1e-4)


def test_the_loss_is_the_weighted_sum(case, kind):
    _, _, _, loss, metrics, _ = case
    weights = {name: weight for name, weight in vars(WEIGHTS[kind]).items() if weight}
    assert set(metrics) == {*weights, "loss", "piece_cosine"}
    assert loss == metrics["loss"] == pytest.approx(sum(weight * metrics[name] for name, weight in weights.items()))


# ---- what it depends on


@pytest.mark.slow
def test_jitted_equals_eager(case, kind):
    hypernet, frozen, batch, loss, metrics, _ = case
    eager, of_eager = total_loss(hypernet, frozen, jax.tree.map(jnp.asarray, batch), WEIGHTS[kind])
    assert_trees_close((eager, of_eager), (loss, metrics))


def test_every_part_of_the_hypernetwork_learns(case):
    *_, gradient = case
    flat = jax.tree_util.tree_leaves_with_path(gradient)
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    # the unused table; rows of keys' bias shift all scores alike
    assert [name for name in still if "unused" not in name and "key.bias" not in name] == []


def test_the_model_gets_no_gradient_through_the_teacher(kind):
    """What is distilled is a target: a gradient of the hypernetwork would not change it, nor one of the rows."""
    hypernet, frozen, batch = random_hypernet(kind), tiny_frozen(kind), jax.tree.map(jnp.asarray, random_batch())
    weights = replace(Objectives(), hidden=1.0)

    def loss(static_table):
        body = jax.tree.map(lambda x: x, frozen.body)
        body.word_embeddings[...] = static_table  # the teacher alone reads it: rows come from `source_VM`
        return total_loss(hypernet, replace(frozen, body=body), batch, weights)[0]

    gradient = jax.jit(jax.grad(loss))(frozen.body.word_embeddings[...])
    assert not np.asarray(gradient).any()


def padded(batch: TrainingBatch) -> TrainingBatch:
    """The same with a text, positions, forms, kept rows and pieces more: padding, with garbage where none looks."""
    texts, pieces = batch.texts, batch.pieces
    n_forms = len(texts.forms.language_P)

    def grown(forms: SurfaceForms, more: int) -> SurfaceForms:
        return SurfaceForms(
            np.pad(forms.surface_PS, ((0, more), (0, 1)), constant_values=9),
            np.pad(forms.is_subword_PS, ((0, more), (0, 1))),
            np.pad(forms.language_P, (0, more)),
        )

    def wider(array, garbage):
        return np.pad(array, ((0, 1), (0, 2)), constant_values=garbage)

    moved_BT = np.where(texts.row_BT >= n_forms, texts.row_BT + 3, texts.row_BT).astype(np.int32)
    return TrainingBatch(
        TextBatch(
            static_BL=wider(texts.static_BL, 7),
            static_mask_BL=wider(texts.static_mask_BL, False),
            row_BT=wider(moved_BT, 2),
            mask_BT=wider(texts.mask_BT, False),
            aligned_BT=wider(texts.aligned_BT, -1),
            is_masked_BT=wider(texts.is_masked_BT, False),
            forms=grown(texts.forms, 3),
            kept_K=np.pad(texts.kept_K, (0, 4), constant_values=11),
            n_kept=texts.n_kept,
        ),
        PieceBatch(grown(pieces.forms, 2), np.pad(pieces.target_P, (0, 2), constant_values=5)),
    )


@pytest.mark.slow
def test_padding_changes_neither_loss_nor_gradients(case, kind):
    hypernet, frozen, batch, loss, metrics, gradient = case
    (with_it, of_it), gradient_with_it = loss_and_gradient(hypernet, frozen, padded(batch), WEIGHTS[kind])
    assert_trees_close((with_it, of_it), (loss, metrics))
    assert_trees_close(gradient_with_it, gradient)


def test_texts_without_anything_to_compare_cost_nothing(case, kind):
    hypernet, frozen, batch, *_ = case
    nothing = jax.tree.map(np.zeros_like, batch)
    texts = replace(nothing.texts, aligned_BT=np.full_like(batch.texts.aligned_BT, -1))
    (loss, _), gradient = loss_and_gradient(hypernet, frozen, replace(nothing, texts=texts), WEIGHTS[kind])
    assert loss == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


# ---- where a fresh network starts


@pytest.mark.slow
def test_a_fresh_residual_network_reads_texts_as_fvt_does(kind):
    frozen, texts = tiny_frozen(kind), jax.tree.map(jnp.asarray, random_texts())
    config = random_hypernet(kind, residual=True).config
    hypernet = jax.jit(init_hypernet, static_argnums=0)(config, jax.random.key(0))
    rows = jax.jit(token_rows)(hypernet, frozen, texts)
    is_own_PS = texts.forms.is_subword_PS & (texts.forms.surface_PS < V)
    count_P1 = texts.forms.is_subword_PS.sum(axis=1, keepdims=True)
    averages_PM = average_embeddings(texts.forms.surface_PS, is_own_PS, frozen.source_VM)
    n_own_P1 = np.asarray(is_own_PS).sum(axis=1, keepdims=True)
    averages_PM = np.asarray(averages_PM) * np.maximum(n_own_P1, 1) / np.asarray(count_P1)
    n_forms = len(averages_PM)
    np.testing.assert_allclose(rows.input_RD[:n_forms], averages_PM[:, :D], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(rows.output_RD[:n_forms], averages_PM[:, -D:], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(rows.input_RD[n_forms:], np.asarray(frozen.source_VM)[texts.kept_K, :D])


# ---- edges


def test_a_column_that_never_varies_is_no_division_by_zero():
    frozen = tiny_frozen()
    frozen.body.word_embeddings[...] = frozen.body.word_embeddings[...].at[:, 3].set(0.7)
    metrics = jax.jit(piece_terms)(random_hypernet(residual=True), freeze(frozen.body), random_batch().pieces)
    assert np.isfinite(metrics["pieces"])


def test_a_decoder_has_no_bias_to_learn():
    hypernet = random_hypernet("decoder", seed=3)
    with_bias = random_hypernet("encoder", seed=3).bias_linear
    hypernet.config = replace(hypernet.config, predict_bias=True)
    hypernet.bias_linear = nnx.data(with_bias)
    assert not np.asarray(jax.jit(token_rows)(hypernet, tiny_frozen("decoder"), random_texts()).bias_R).any()


def test_chunks_add_up():
    rng = np.random.default_rng(0)
    for length in (1, 16, 17):
        values_BT, mask_BT = rng.normal(size=(2, length)).astype(np.float32), rng.random((2, length)) < 0.5
        mask_BT[0, 0] = True
        mean = jax.jit(lambda m, v: mean_by_chunks(lambda x: x**2, m, v))(mask_BT, values_BT)
        assert mean == pytest.approx((values_BT**2)[mask_BT].mean(), rel=1e-5)


def test_equal_readings_do_not_diverge():
    frozen = tiny_frozen("decoder")
    hidden_BTD = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, D)), jnp.float32)
    assert next_subword_divergence(frozen.body, hidden_BTD, hidden_BTD, jnp.ones((2, 3), bool)) == 0
    assert decoders.logits(frozen.body, hidden_BTD).shape == (2, 3, V)


@pytest.mark.slow
def test_what_a_model_cannot_do_is_named():
    hypernet, batch = random_hypernet(), jax.tree.map(jnp.asarray, random_batch())
    with pytest.raises(ConfigError, match="next_subword compares a decoder's predictions"):
        total_loss(hypernet, tiny_frozen(), batch, Objectives(next_subword=1.0))
    headless = freeze(tiny_frozen().body)
    with pytest.raises(ConfigError, match="needs the encoder's masked-LM head and mask token"):
        total_loss(hypernet, headless, batch, Objectives(language_model=1.0))
