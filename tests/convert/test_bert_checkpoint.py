"""Hypernetworks come back to the last bit, and what does not fit its config is told."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dyntok_jax.convert import (
    load_hypernet,
    save_hypernet,
)
from dyntok_jax.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hypernet_xlmr", "hypernet_mistral", "hypernet_single_head"])
def test_hypernetworks_survive_the_round_trip_bit_for_bit(name, tmp_path):
    config, hypernet = load_hypernet(GOLDEN / name)
    save_hypernet(tmp_path, config, hypernet)
    before, after = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for tensor in before:
        np.testing.assert_array_equal(after[tensor], before[tensor])
    released = json.loads((GOLDEN / name / "config.json").read_text())
    written = json.loads((tmp_path / "config.json").read_text())
    assert {key: written[key] for key in released if key in written}.items() <= released.items()
    again_config, again = load_hypernet(tmp_path)
    assert again_config == config
    jax.tree.map(np.testing.assert_array_equal, hypernet, again)


def test_a_hypernetwork_that_its_config_does_not_fit_is_told(tmp_path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((GOLDEN / "hypernet_xlmr" / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_langs": 27, "hn_predict_bias": False}))
    with pytest.raises(CheckpointError) as error:
        load_hypernet(tmp_path)
    assert "misshapen: lang_embeddings.weight is [26, 64], expected [27, 64]" in str(error.value)
    assert "unknown: bias_projection.bias" in str(error.value)
