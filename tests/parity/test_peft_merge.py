"""Merged adapters equal those of peft's `add_weighted_adapter`; DARE where it drops nothing, for its numbers differ."""

import itertools

import jax
import numpy as np
import peft
import pytest
from transformers import AutoModel

from dyntok_jax.adapters import MergeMethod, merge_adapters
from dyntok_jax.convert import load_adapter, load_encoder
from tests.models.test_bert import assert_close
from tests.parity.test_bert import FAMILIES, torch_model
from tests.parity.test_peft import randomized

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The density 1.0:UserWarning"),
]
KINDS = {
    "magnitude_prune": MergeMethod("magnitude", density=0.8),
    "linear": MergeMethod("linear"),
    "ties": MergeMethod("ties", density=0.5),
    "dare_linear": MergeMethod("dare_linear"),
}


@pytest.fixture(scope="module")
def merged_by_peft(tmp_path_factory):
    """A folder with two adapters and every merge of them."""
    folder = tmp_path_factory.mktemp("merged")
    base = torch_model(FAMILIES["xlm-roberta"], folder / "base", AutoModel)
    lora = {"target_modules": ["query", "output.dense"], "r": 4}
    model = peft.get_peft_model(base, peft.LoraConfig(**lora), adapter_name="one")
    model.add_adapter("two", peft.LoraConfig(**lora, lora_alpha=3))
    model.base_model.set_adapter(["one", "two"])
    randomized(model)
    for kind, suffix, weights in itertools.product(KINDS, ("", "_svd"), ([0.4, 0.6], [0.9, -0.5])):
        model.add_weighted_adapter(
            ["one", "two"],
            weights,
            f"{kind}{suffix}{weights[0]}".replace(".", "_"),
            combination_type="svd" if (kind, suffix) == ("linear", "_svd") else kind + suffix,
            svd_rank=5 if suffix else None,
            density=None if kind == "linear" else KINDS[kind].density,
            majority_sign_method=KINDS[kind].sign,
        )
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("weights", [[0.4, 0.6], [0.9, -0.5]])
@pytest.mark.parametrize("suffix", ["", "_svd"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_equal_peft_s(kind, suffix, weights, merged_by_peft):
    config, _ = load_encoder(merged_by_peft / "base")
    adapters = [load_adapter(merged_by_peft / name, config) for name in ("one", "two")]
    theirs = load_adapter(merged_by_peft / f"{kind}{suffix}{weights[0]}".replace(".", "_"), config)
    ours = merge_adapters(adapters, weights, KINDS[kind], rank=5 if suffix else None, key=jax.random.key(0))
    for path, one in theirs.maps.items():
        assert_close(ours.maps[path].delta(), one.delta())
        if not suffix:
            assert_close(ours.maps[path].a, one.a)
    assert np.abs(ours.maps["layers.query"].delta()).max() > 1e-3
