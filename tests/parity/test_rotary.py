"""Rotary positions of every kind are those of transformers, on both spellings of its configs."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as turn_a_share

from dyntok_jax.models.rotary import attention_factor, rotary_angles, rotary_frequencies, rotate
from dyntok_jax.models.rotary_config import read_rope

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
SCALED = {
    "linear": {"rope_type": "linear", "factor": 8.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": YARN,
    "yarn from all positions": {"rope_type": "yarn", "factor": 4.0},
    "yarn, untruncated": YARN | {"truncate": False},
    "yarn with betas": YARN | {"beta_fast": 24.0, "beta_slow": 2.0},
    "yarn with a factor of attention": YARN | {"attention_factor": 1.3},
    "yarn of DeepSeek": YARN | {"mscale": 0.707, "mscale_all_dim": 1.0},
    "yarn that scales nothing": YARN | {"factor": 1.0},
    "yarn with a steep ramp": YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "original_max_position_embeddings": 8},
}


def hf_config(rope, head_width):
    return LlamaConfig(
        hidden_size=4 * head_width,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters=rope | {"rope_theta": 500_000.0},
    )


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("head_width", [64, 80])
@pytest.mark.filterwarnings("ignore")
def test_frequencies_are_transformers(name, share, head_width):
    wanted = SCALED[name] | ({} if share == 1 else {"partial_rotary_factor": share})
    config = hf_config(wanted, head_width)
    expected, factor = ROPE_INIT_FUNCTIONS[wanted["rope_type"]](config, torch.device("cpu"))
    new = read_rope({"rope_parameters": config.to_dict()["rope_parameters"]}, 4096)
    old = read_rope({"rope_theta": 500_000.0, "rope_scaling": wanted}, 4096)
    assert new == old
    np.testing.assert_allclose(rotary_frequencies(head_width, new), expected.numpy(), rtol=2e-6)
    assert attention_factor(new) == pytest.approx(factor)


def test_a_share_of_a_head_is_turned_as_in_transformers():
    rope = read_rope({"partial_rotary_factor": 0.5}, 64)
    rng, position = np.random.default_rng(0), jnp.arange(10)[None]
    query, key = (rng.normal(size=(1, 10, 2, 16)).astype(np.float32) for _ in range(2))
    cosine, sine = rotary_angles(position, 16, rope)
    of_torch = [torch.tensor(np.asarray(angle)).repeat(1, 1, 2) for angle in (cosine, sine)]
    heads_first = [torch.tensor(x).transpose(1, 2) for x in (query, key)]
    expected = turn_a_share(*heads_first, *of_torch)
    for ours, theirs in zip((query, key), expected, strict=True):
        turned = rotate(jnp.asarray(ours), (cosine, sine))
        np.testing.assert_allclose(turned, theirs.transpose(1, 2).numpy(), atol=1e-6)
