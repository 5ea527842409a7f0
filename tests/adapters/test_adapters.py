"""Adapters: nothing is multiplied out, they train and shard, and what does not fit is refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.adapters import Adapter, LoraConfig, apply_adapters, fold_adapters, fresh_adapter
from dyntok_jax.convert import load_adapter, load_encoder, save_adapter, save_encoder
from dyntok_jax.errors import CheckpointError, ConfigError
from dyntok_jax.models import SequenceHead, TokenHead, classify_tokens, encode_ids
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.sharding import make_mesh, shardings_for
from tests.models.test_bert import assert_close, batch, fresh, small_config

CONFIG = small_config(width=16, n_heads=4)
ENCODER = fresh(CONFIG)
HEAD = TokenHead(CONFIG, ("O", "B-PER", "I-PER"), jax.random.key(2))
IDS, MASK, TYPES = batch()


def trained(config, model=ENCODER, head=None, seed=0):
    """An adapter that does something, with zeros past each layer's rank."""
    rng = np.random.default_rng(seed)

    def moved(x, axis=None, ranks=()):
        noise = 0.1 * rng.normal(size=x.shape)
        for layer, rank in enumerate(ranks):
            np.moveaxis(noise[layer], axis, 0)[rank:] = 0
        return x + jnp.asarray(noise, x.dtype)

    adapter = fresh_adapter(jax.random.key(seed), config, model, head)
    maps = {
        path: replace(one, a=moved(one.a, -1, one.ranks), b=moved(one.b, 0, one.ranks))
        for path, one in adapter.maps.items()
    }
    return Adapter(config, maps, {path: replace(one, value=moved(one.value)) for path, one in adapter.replaced.items()})


@jax.jit
def run(encoder, head, adapters):
    hidden = encode_ids(apply_adapters(encoder, adapters), IDS, MASK, TYPES)
    return classify_tokens(apply_adapters(head, adapters), hidden)


PATTERNED = LoraConfig(
    rank=4, targets=("query", "layers.1.ffn_in"), rank_pattern=(("layer.0.attention.self.query", 2),)
)
WHOLE_HEAD = LoraConfig(rank=2, modules_to_save=("classifier",), bias="all", task="TOKEN_CLS")


def test_a_fresh_adapter_changes_nothing():
    adapter = fresh_adapter(jax.random.key(0), WHOLE_HEAD, ENCODER, HEAD)
    np.testing.assert_array_equal(run(ENCODER, HEAD, [adapter]), run(ENCODER, HEAD, []))


@pytest.mark.parametrize("config", [PATTERNED, WHOLE_HEAD])
def test_beside_the_weights_equals_multiplied_into_them(config):
    adapter = trained(config, head=HEAD)
    beside = run(ENCODER, HEAD, [adapter])
    assert_close(run(fold_adapters(ENCODER, [adapter]), fold_adapters(HEAD, [adapter]), []), beside)
    assert np.abs(beside - run(ENCODER, HEAD, [])).max() > 1e-4


def test_several_adapters_add_up():
    one, two = trained(PATTERNED), trained(LoraConfig(rank=3, targets=("key", "query")))
    assert_close(run(fold_adapters(fold_adapters(ENCODER, [one]), [two]), HEAD, []), run(ENCODER, HEAD, [one, two]))


def test_no_array_of_a_kernel_s_size_is_computed():
    # without weights of its own, a program of 1 token has nothing as large as a · b unless it multiplies them out
    wide = small_config(width=512, n_heads=4, n_layers=1)
    model = jax.eval_shape(lambda: fresh(wide))
    adapter = jax.eval_shape(lambda: fresh_adapter(jax.random.key(0), LoraConfig(rank=2, targets=("query",)), model))
    ids = jnp.ones((1, 1), jnp.int32)
    program = jax.make_jaxpr(lambda m, a: encode_ids(apply_adapters(m, [a]), ids, ids > 0, ids))(model, adapter)
    layer = next(e for e in program.jaxpr.eqns if e.primitive.name == "scan").params["jaxpr"].jaxpr
    made_here = [v.aval.size for e in layer.eqns if "dot_general" in str(e.primitive) for v in e.outvars]
    assert made_here
    assert max(made_here) < 512 * 512


def test_padded_ranks_get_no_gradient_and_others_do():
    adapter = trained(PATTERNED)
    gradient = jax.grad(lambda adapter: jnp.square(run(ENCODER, HEAD, [adapter])).sum())(adapter)
    query, ffn = gradient.maps["layers.query"], gradient.maps["layers.ffn_in"]
    assert not query.a[0, ..., 2:].any()
    assert not query.b[0, 2:].any()
    assert np.abs(query.a[0, ..., :2]).min() > 0
    assert np.abs(query.b[1]).min() > 0
    assert not ffn.a[0].any()
    assert np.abs(ffn.a[1]).max() > 0


def test_adapters_lie_where_the_weights_do():
    adapter, mesh = trained(WHOLE_HEAD, head=HEAD), make_mesh(2, 4)
    specs = {path: one.spec for path, one in flat_parameters(shardings_for(adapter, mesh)).items()}
    assert specs["maps.layers.query.b"][2] == "model"
    assert specs["maps.layers.output.a"][1] == "model"
    adapted = apply_adapters(ENCODER, [adapter])
    placed = jax.device_put(adapted, shardings_for(adapted, mesh))
    assert_close(jax.jit(encode_ids)(placed, IDS, MASK, TYPES), encode_ids(adapted, IDS, MASK, TYPES))


def test_a_folder_comes_back_equal(tmp_path):
    for config in (PATTERNED, WHOLE_HEAD, LoraConfig(rank=2, targets=("key",), bias="lora_only", layers=(1,))):
        adapter = trained(config, head=HEAD)
        save_adapter(tmp_path, adapter, CONFIG)
        back = load_adapter(tmp_path, CONFIG)
        assert back.maps.keys() == adapter.maps.keys()
        assert back.replaced.keys() == adapter.replaced.keys()
        for path, one in adapter.maps.items():
            assert (back.maps[path].ranks, back.maps[path].scales) == (one.ranks, one.scales)
        np.testing.assert_array_equal(run(ENCODER, HEAD, [back]), run(ENCODER, HEAD, [adapter]))


def test_a_model_with_adapters_beside_it_is_not_saved_without_them(tmp_path):
    adapter = trained(PATTERNED)
    with pytest.raises(CheckpointError, match=r"^The model has adapters beside its weights.*fold_adapters"):
        save_encoder(tmp_path, CONFIG, apply_adapters(ENCODER, [adapter]))
    save_encoder(tmp_path, CONFIG, fold_adapters(ENCODER, [adapter]))
    assert_close(run(load_encoder(tmp_path)[1], HEAD, []), run(ENCODER, HEAD, [adapter]))


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ConfigError, match=r"^The rank of an adapter must be 1 or more, got"):
        LoraConfig(rank=rank)
    with pytest.raises(ConfigError, match=r"got .* for layer.1.query"):
        LoraConfig(rank_pattern=(("layer.1.query", rank),))


def test_targets_that_match_nothing_are_all_listed():
    with pytest.raises(
        ConfigError, match=r"^Targets match no linear map of the model: q_proj, v_proj\. .* query, value"
    ):
        fresh_adapter(jax.random.key(0), LoraConfig(targets=("query", "v_proj", "q_proj")), ENCODER)


@pytest.mark.slow
def test_an_adapter_of_another_model_is_refused(tmp_path):
    other = small_config(n_layers=3)
    adapter = trained(LoraConfig(targets=("query", "dense")), model=fresh(other))
    with pytest.raises(ConfigError, match=r"layers.ffn_in is for \[3, 24, 40\], and the model has \[2, 16, 40\]"):
        apply_adapters(ENCODER, [adapter])
    save_adapter(tmp_path, adapter, other)
    with pytest.raises(CheckpointError) as raised:
        load_adapter(tmp_path, CONFIG)
    assert "query.lora_A.weight goes from 24 to 24, and the model's map from 16 to 16" in str(raised.value)
    assert "query.lora_A.weight is of a layer that the model does not have (2 layers)" in str(raised.value)


def test_a_head_with_another_number_of_labels_is_refused():
    adapter = trained(WHOLE_HEAD, head=HEAD)
    with pytest.raises(ConfigError, match="the adapter's head has 3 labels and the model's 2"):
        apply_adapters(TokenHead(CONFIG, ("O", "B"), jax.random.key(0)), [adapter])


def test_two_adapters_cannot_replace_the_same_parameters():
    adapter = trained(WHOLE_HEAD, head=HEAD)
    with pytest.raises(ConfigError, match=r"layers\.query\.bias is replaced by several adapters"):
        apply_adapters(ENCODER, [adapter, adapter])


def test_modules_to_save_are_those_of_the_head():
    with pytest.raises(ConfigError, match=r"^modules_to_save names embed_tokens, which the head does not have"):
        fresh_adapter(jax.random.key(0), LoraConfig(modules_to_save=("embed_tokens",)), ENCODER, HEAD)
    head = SequenceHead(CONFIG, ("a", "b"), jax.random.key(0))
    adapter = fresh_adapter(jax.random.key(0), LoraConfig(modules_to_save=("classifier",)), ENCODER, head)
    assert set(adapter.replaced) == {"head.output.kernel", "head.output.bias"}
    assert "head.dense" in adapter.maps  # BERT's pooler is a linear map like others


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, r"use_dora = True"),
        ({"fan_in_fan_out": True, "lora_bias": True}, r"fan_in_fan_out = True, lora_bias = True"),
        ({"peft_type": "VERA"}, r"type 'VERA' is not supported"),
        ({"peft_type": "LOHA"}, r"type 'LOHA' is not supported"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa' \(which changes the model's weights\)"),
        ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices = \[1, 2\]"),
        ({"r": 0}, r"rank of an adapter must be 1 or more, got 0"),
        ({"rank_pattern": {"(": 3}}, r"'\(' must be a regular expression"),
        ({"bias": "some"}, r"bias of an adapter must be one of none, all, lora_only, got 'some'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, change, message):
    save_adapter(tmp_path, trained(PATTERNED), CONFIG)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_adapter(tmp_path, CONFIG)


def test_a_rank_that_is_not_the_config_s_is_refused(tmp_path):
    save_adapter(tmp_path, trained(LoraConfig(rank=4, targets=("query",))), CONFIG)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 8}))
    with pytest.raises(CheckpointError, match=r"query\.lora_A\.weight has rank 4, and the adapter's config says 8"):
        load_adapter(tmp_path, CONFIG)
