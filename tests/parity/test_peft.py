"""Adapters equal peft's: forward, folded into the weights, and as folders in both directions."""

import jax
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    LlamaConfig,
    Qwen2Config,
)

from dyntok_jax import DynamicDecoder
from dyntok_jax.adapters import LoraConfig, apply_adapters, fold_adapters, fresh_adapter
from dyntok_jax.convert import load_adapter, load_decoder, load_encoder, load_sequence_head, save_adapter
from dyntok_jax.models import classify_sequences, embed_ids, encode_ids, forward, logits, unstacked
from dyntok_jax.tasks import TaskConfig, prepare_task
from dyntok_jax.training import OptimizerConfig, RunConfig, train
from tests.models.test_bert import TINY, assert_close, batch
from tests.parity.test_bert import FAMILIES, torch_model
from tests.support.tiny import write_tiny_decoder

# peft asks transformers for what transformers will rename
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
OF_DECODERS = TINY | {"num_key_value_heads": 1, "tie_word_embeddings": False, "pad_token_id": 0}
LLAMA, QWEN2 = LlamaConfig(**OF_DECODERS), Qwen2Config(**OF_DECODERS)
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA3 = Gemma3TextConfig(**OF_DECODERS, head_dim=8, sliding_window=4, layer_types=KINDS)
CONFIGS = {
    "plain": {"r": 4, "target_modules": ["query", "value"]},
    "two ranks": {
        "r": 4,
        "target_modules": ["query", "output.dense", "intermediate.dense"],
        "rank_pattern": {"layer.1.attention.self.query": 7, r"layer\.\d+\.output\.dense": 2},
        "alpha_pattern": {"intermediate.dense": 3},
    },
    "rslora": {"r": 9, "lora_alpha": 5, "target_modules": r".*\.(key|attention\.output\.dense)", "use_rslora": True},
    "bias all": {"r": 3, "target_modules": ["query"], "bias": "all"},
    "bias lora_only": {"r": 3, "target_modules": ["key"], "bias": "lora_only", "layers_to_transform": [0, 2]},
    "all-linear": {"r": 2, "target_modules": "all-linear"},
}


def randomized(model):
    """peft's fresh adapters do nothing: all that it trains is drawn anew."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def torch_inputs(ids, mask, types):
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {n: torch.tensor(np.asarray(x), dtype=torch.long) for n, x in zip(names, (ids, mask, types), strict=True)}


def same_tensors(left, right):
    left, right = load_file(left), load_file(right)
    # peft writes biases of modules saved whole three times, and we once
    left = {name: values for name, values in left.items() if "original_module" not in name and "_save." not in name}
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_classifier_with_an_adapter_equals_peft_s(family, case, tmp_path):
    hf_config = FAMILIES[family]
    auto = AutoModelForSequenceClassification
    base = torch_model(hf_config, tmp_path / "base", auto)
    lora = peft.LoraConfig(task_type="SEQ_CLS", **CONFIGS[case])
    theirs = randomized(peft.get_peft_model(base, lora))
    theirs.save_pretrained(tmp_path / "theirs")
    ids, mask, types = batch(hf_config.pad_token_id, types=hf_config.type_vocab_size)
    inputs = torch_inputs(ids, mask, types)
    with torch.inference_mode():
        expected = theirs(**inputs).logits.numpy()

    (config, encoder), head = load_encoder(tmp_path / "base"), load_sequence_head(tmp_path / "base")
    adapter = load_adapter(tmp_path / "theirs", config)

    @jax.jit
    def run(encoder, head, adapters):
        encoder, head = apply_adapters(encoder, adapters), apply_adapters(head, adapters)
        return classify_sequences(head, encode_ids(encoder, ids, mask, types))

    assert_close(run(encoder, head, [adapter]), expected)
    assert_close(run(fold_adapters(encoder, [adapter]), fold_adapters(head, [adapter]), []), expected)
    assert np.abs(run(encoder, head, []) - expected).max() > 1e-2

    save_adapter(tmp_path / "ours", adapter, config)
    weights = "adapter_model.safetensors"
    same_tensors(tmp_path / "theirs" / weights, tmp_path / "ours" / weights)
    again = peft.PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "ours").eval()
    with torch.inference_mode():
        assert np.array_equal(again(**inputs).logits.numpy(), expected)


@pytest.mark.parametrize(("base", "is_stacked"), [(LLAMA, True), (LLAMA, False), (QWEN2, False), (GEMMA3, True)])
def test_a_decoder_with_two_adapters_equals_peft_s(base, is_stacked, tmp_path):
    base = torch_model(base, tmp_path / "base", AutoModelForCausalLM)
    one = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", rank_pattern={"layers.0.mlp.up_proj": 2}
    )
    two = peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "v_proj", "o_proj"], use_rslora=True)
    theirs = peft.get_peft_model(base, one, adapter_name="one")
    theirs.add_adapter("two", two)
    theirs.base_model.set_adapter(["one", "two"])
    randomized(theirs).save_pretrained(tmp_path / "theirs")
    ids, mask, _ = batch()
    with torch.inference_mode():
        expected = theirs(**torch_inputs(ids, mask, mask) | {"token_type_ids": None}).logits.numpy()

    config, decoder = load_decoder(tmp_path / "base", is_stacked=is_stacked)
    adapters = [load_adapter(tmp_path / "theirs" / name, config) for name in ("one", "two")]

    @jax.jit
    def run(decoder):
        return logits(decoder, forward(decoder, embed_ids(decoder, ids), mask))

    adapted = apply_adapters(decoder, adapters)
    assert_close(run(adapted)[mask], expected[np.asarray(mask)])
    assert_close(run(fold_adapters(decoder, adapters))[mask], expected[np.asarray(mask)])
    if is_stacked:
        assert_close(run(unstacked(adapted))[mask], expected[np.asarray(mask)])


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_folders_of_fresh_adapters_load_in_peft_bit_for_bit(kind, tmp_path):
    if kind == "encoder":
        torch_model(FAMILIES["xlm-roberta"], tmp_path / "base", AutoModel)
        (config, model), auto = load_encoder(tmp_path / "base"), AutoModel
        pattern = (("layers.1.query", 5), ("intermediate.dense", 2))
    else:
        torch_model(LLAMA, tmp_path / "base", AutoModelForCausalLM)
        (config, model), auto = load_decoder(tmp_path / "base"), AutoModelForCausalLM
        pattern = (("layers.1.query", 5), ("down_proj", 2))
    adapter = fresh_adapter(jax.random.key(0), LoraConfig(rank=3, rank_pattern=pattern), model)
    save_adapter(tmp_path / "ours", adapter, config)
    theirs = peft.PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    weights = "adapter_model.safetensors"
    same_tensors(tmp_path / "theirs" / weights, tmp_path / "ours" / weights)
    assert {rank for one in adapter.maps.values() for rank in one.ranks} == {2, 3, 5}
    read_back = load_adapter(tmp_path / "theirs", config)
    jax.tree.map(np.testing.assert_array_equal, read_back.maps["layers.query"].a, adapter.maps["layers.query"].a)


def test_peft_reads_what_training_a_decoder_wrote(tmp_path):
    write_tiny_decoder(tmp_path / "base")
    (tmp_path / "texts.jsonl").write_text('{"prompt": "All human", "completion": " beings"}')
    config = TaskConfig(
        "lm",
        train=(str(tmp_path / "texts.jsonl"),),
        model=str(tmp_path / "base"),
        hypernet="none",
        batch_size=1,
        max_length=32,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=0),
        run=RunConfig(steps=3),
    )
    folder = train(prepare_task(config), tmp_path / "run").result
    (ours,) = DynamicDecoder.load(tmp_path / "base", None, adapter=folder).score(["All human"], [" beings are born"])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    assert theirs.peft_config["default"].task_type == "CAUSAL_LM"
    ids = ours.prompt_tokens.subword_L.tolist() + list(ours.ids)
    with torch.inference_mode():
        log_probs = torch.log_softmax(theirs(torch.tensor([ids])).logits[0].float(), dim=-1)
        with theirs.disable_adapter():
            plain = torch.log_softmax(theirs(torch.tensor([ids])).logits[0].float(), dim=-1)
    expected = [log_probs[at - 1, ids[at]].item() for at in range(len(ids) - len(ours.ids), len(ids))]
    np.testing.assert_allclose(ours.log_probs_O, expected, atol=1e-4)
    assert (log_probs - plain).abs().max() > 1e-2
