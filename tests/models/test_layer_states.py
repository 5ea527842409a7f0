"""States inside a decoder are those that its forward pass goes through."""

import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax.models import embed_ids, forward, states_after, unstacked
from dyntok_jax.models.decoder_layer import rms_norm
from tests.models.test_decoder import PLAIN, batch, random_decoder


@pytest.mark.slow
def test_states_after_all_layers_are_those_of_the_forward_pass_before_its_norm():
    model = random_decoder(PLAIN)
    ids_BT, mask_BT = batch()
    embeddings_BTD = embed_ids(model, ids_BT)
    expected_BTD = forward(model, embeddings_BTD, mask_BT)
    for same in (model, unstacked(model)):
        (last_BTD,) = states_after(same, embeddings_BTD, mask_BT, [PLAIN.n_layers])
        normed_BTD = rms_norm(model.final_norm, last_BTD, PLAIN.norm_eps)
        np.testing.assert_allclose(normed_BTD[mask_BT], expected_BTD[mask_BT], atol=1e-5)


def test_states_come_in_the_order_asked_for_beginning_with_the_embeddings():
    model = random_decoder(PLAIN)
    ids_BT, mask_BT = batch((3, 2), width=3)
    embeddings_BTD = embed_ids(model, ids_BT)
    none_BTD, first_BTD, second_BTD = states_after(model, embeddings_BTD, mask_BT, [0, 1, 2])
    np.testing.assert_array_equal(none_BTD, embeddings_BTD)
    assert float(jnp.abs(first_BTD - second_BTD).max()) > 1e-3
    np.testing.assert_array_equal(states_after(model, embeddings_BTD, mask_BT, [1])[0], first_BTD)
