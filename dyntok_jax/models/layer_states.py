"""Hidden states inside a decoder: after some of its layers, without computing those that follow."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dyntok_jax.models.attention import AttentionSpan
from dyntok_jax.models.decoder import Decoder
from dyntok_jax.models.decoder_layer import decoder_layer
from dyntok_jax.models.layer_kinds import reading_of_layer, readings_of, scaled_embeddings


def states_after(
    model: Decoder, embeddings_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"], layers: Sequence[int]
) -> list[Float[Array, "B T D"]]:
    """Reads whole sequences as `forward` does, up to the last layer asked for.

    Args:
      model: the parameters.
      embeddings_BTD: one word embedding a token.
      mask_BT: True for tokens; padding is on the right.
      layers: how many layers each result has passed, ascending; 0 for the embeddings themselves.

    Returns:
      The states after each, not normalised; finite but meaningless under a False mask.

    >>> from dyntok_jax.models import embed_ids
    >>> embeddings_BTD = embed_ids(decoder.decoder, jnp.array([[5, 6, 7]]))
    >>> embedded, first = states_after(decoder.decoder, embeddings_BTD, jnp.ones((1, 3), bool), [0, 1])
    >>> bool((embedded == embeddings_BTD).all()), first.shape
    (True, (1, 3, 32))
    """
    config = model.config
    n_batch, length, _ = embeddings_BTD.shape
    position_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (n_batch, length))
    span = AttentionSpan(position_BT, mask_BT, jnp.zeros(n_batch, jnp.int32), None)
    readings, states = readings_of(config, span), [scaled_embeddings(embeddings_BTD, config)]
    for number in range(max(layers, default=0)):
        if isinstance(model.layers, tuple):
            layer = model.layers[number]
        else:
            layer = jax.tree.map(lambda stack, at=number: stack[at], model.layers)
        reading = reading_of_layer(config, readings, number)
        states.append(decoder_layer(layer, states[-1], None, *reading, config)[0])
    states[0] = embeddings_BTD
    return [states[number] for number in layers]
