"""Decoders' checkpoints come in and go out without a changed bit."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec as P
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from dyntok_jax.convert import (
    load_decoder,
)
from dyntok_jax.convert.decoder_checkpoint import (
    decoder_table,
    save_decoder,
)
from dyntok_jax.errors import CheckpointError, ConfigError
from dyntok_jax.models import Decoder, DecoderConfig, embed_ids, forward, logits, unstacked
from dyntok_jax.parameters import flat_parameters
from dyntok_jax.sharding import make_mesh

TINY = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": LlamaConfig(**TINY),
    "tied llama": LlamaConfig(**TINY, tie_word_embeddings=True),
    "mistral": MistralConfig(**TINY, sliding_window=None),
    "wide heads": MistralConfig(**TINY, head_dim=16, sliding_window=4),
    "qwen2": Qwen2Config(**TINY, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": Qwen3Config(**TINY, head_dim=16, tie_word_embeddings=True),
    "gemma3": Gemma3TextConfig(
        **TINY,
        head_dim=16,
        sliding_window=4,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}


def random_model(config, dtype=torch.float32):
    """A PyTorch model, its norms random too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def folder(tmp_path):
    random_model(FAMILIES["llama"]).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def rewrite(folder, change):
    """Changes the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorch_reloads_the_export_bit_by_bit(tmp_path, family, dtype):
    before = random_model(FAMILIES[family], getattr(torch, dtype))
    before.save_pretrained(tmp_path / "in")
    config, decoder = load_decoder(tmp_path / "in", dtype=dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(decoder)} == {dtype}
    save_decoder(tmp_path / "out", config, decoder)
    after, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[faults] for faults in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(after) is type(before)
    for (name, one), (_, other) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(before(ids).logits, after(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_pytorchs(tmp_path, family):
    model = random_model(FAMILIES[family])
    model.save_pretrained(tmp_path)
    _, decoder = load_decoder(tmp_path)
    ids = np.arange(12, dtype=np.int32)[None]
    hidden_BTD = forward(decoder, embed_ids(decoder, jnp.asarray(ids)), jnp.ones((1, 12), bool))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids).long()).logits.numpy()
    np.testing.assert_allclose(logits(decoder, hidden_BTD), expected, atol=2e-5 * np.abs(expected).max())


def test_shards_are_read_and_written(tmp_path, folder):
    model = random_model(FAMILIES["llama"])
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    (config, whole), (_, decoder) = load_decoder(folder), load_decoder(tmp_path / "shards")
    jax.tree.map(np.testing.assert_array_equal, whole, decoder)
    save_decoder(tmp_path / "out", config, decoder, max_shard_bytes=30_000)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for one, other in zip(model.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)


def test_tensors_go_to_their_shards_and_come_back(tmp_path, folder):
    mesh = make_mesh(2, 2)

    def shardings(tree):
        """The layers' last axis over `model`, the rest on every device."""
        specs = {path: P(*[None] * (leaf.ndim - 1), "model") for path, leaf in flat_parameters(tree).items()}
        specs["final_norm.scale"] = P()
        return jax.tree.unflatten(jax.tree.structure(tree), [NamedSharding(mesh, spec) for spec in specs.values()])

    config, whole = load_decoder(folder)
    _, decoder = load_decoder(folder, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, whole, decoder)
    assert decoder.layers.query.kernel.sharding.spec == P(None, None, None, "model")
    assert {shard.data.shape for shard in decoder.word_embeddings[...].addressable_shards} == {(40, 16)}
    save_decoder(tmp_path / "out", config, decoder)
    assert_same_files(tmp_path / "out", folder)


def assert_same_files(one, other):
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_an_unstacked_decoder_is_written_the_same(tmp_path, folder):
    config, decoder = load_decoder(folder)
    save_decoder(tmp_path / "out", config, unstacked(decoder))
    assert_same_files(tmp_path / "out", folder)


def test_older_files_and_bodies_alone_are_read(tmp_path):
    config = FAMILIES["tied llama"]
    torch.manual_seed(0)
    LlamaModel(config).save_pretrained(tmp_path)
    _, body = load_decoder(tmp_path)

    def age(tensors):
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)
        for layer in range(3):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)

    rewrite(tmp_path, age)
    _, aged = load_decoder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, body, aged)


def test_a_tied_checkpoint_may_carry_its_table_twice_but_not_two_tables(tmp_path):
    random_model(FAMILIES["tied llama"]).save_pretrained(tmp_path)
    _, plain = load_decoder(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}))
    _, twice = load_decoder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, plain, twice)
    rewrite(tmp_path, lambda tensors: tensors["lm_head.weight"].__imul__(2))
    with pytest.raises(CheckpointError, match=r"an output table of its own \(lm_head\.weight\).*tie_word_embeddings"):
        load_decoder(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": np.zeros((40, 32), np.int8)}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is I8, not F32, F16, BF16"):
        load_decoder(tmp_path)


def test_all_wrong_tensors_are_listed_in_one_error(folder):
    def damage(tensors):
        del tensors["lm_head.weight"]
        tensors["model.layers.1.self_attn.k_proj.weight"] = np.zeros((32, 32), np.float32)
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(32, np.float32)
        tensors["model.layers.3.input_layernorm.weight"] = np.zeros(32, np.float32)

    rewrite(folder, damage)
    with pytest.raises(CheckpointError) as error:
        load_decoder(folder)
    assert str(error.value).splitlines()[1:] == [
        "  misshapen: model.layers.1.self_attn.k_proj.weight is [32, 32], expected [16, 32]",
        "  missing: lm_head.weight",
        "  unknown: model.layers.0.self_attn.q_proj.bias [32]",
        "  unknown: model.layers.3.input_layernorm.weight (the config has 3 layers)",
    ]


def test_another_family_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_moe"}))
    with pytest.raises(ConfigError, match="qwen2_moe"):
        load_decoder(folder)


def test_half_precision_is_cast_on_the_way_in(folder):
    rewrite(folder, lambda tensors: tensors.update({name: t.astype(np.float16) for name, t in tensors.items()}))
    _, wide = load_decoder(folder, dtype=jnp.float32)
    _, narrow = load_decoder(folder, dtype=jnp.bfloat16)
    jax.tree.map(lambda w, n: np.testing.assert_array_equal(np.asarray(w).astype(bfloat16), n), wide, narrow)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_name_in_the_checkpoint(tmp_path, family):
    random_model(FAMILIES[family]).save_pretrained(tmp_path)
    config, decoder = load_decoder(tmp_path)
    assert {path for path, _ in decoder_table(config).values()} == set(flat_parameters(decoder))


def test_mistral_7b_has_a_place_for_every_tensor():
    published = {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
    }
    config = DecoderConfig.from_hf(published)
    abstract = flat_parameters(jax.eval_shape(partial(Decoder, config, dtype=jnp.bfloat16), jax.random.key(0)))
    table = decoder_table(config)
    shapes = {}
    for name, (path, transform) in table.items():
        shape = abstract[path].shape[1:] if "{i}" in name else abstract[path].shape
        shapes[name] = jax.eval_shape(transform.save, jax.ShapeDtypeStruct(shape, jnp.bfloat16)).shape
    layer = "model.layers.{i}."
    assert shapes[f"{layer}self_attn.q_proj.weight"] == shapes[f"{layer}self_attn.o_proj.weight"] == (4096, 4096)
    assert shapes[f"{layer}self_attn.k_proj.weight"] == shapes[f"{layer}self_attn.v_proj.weight"] == (1024, 4096)
    assert shapes[f"{layer}mlp.gate_proj.weight"] == shapes[f"{layer}mlp.up_proj.weight"] == (14336, 4096)
    assert shapes[f"{layer}mlp.down_proj.weight"] == (4096, 14336)
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (32000, 4096)
    n_weights = sum(np.prod(leaf.shape) for leaf in abstract.values())
    assert n_weights == 7_241_732_096
