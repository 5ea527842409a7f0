"""The model's own step: from token inputs to hidden states or sentence embeddings."""

import jax
from jaxtyping import Array, Float, Int32

from dyntok_jax.embedding import TokenInputs, embed_tokens
from dyntok_jax.models import Encoder, SentenceHead, embed_sentences, encode


@jax.jit
def encode_batch(
    encoder: Encoder, inputs: TokenInputs[Array], type_BT: Int32[Array, "B T"], head: SentenceHead | None = None
) -> Float[Array, "B *T D"]:
    """Source or predicted embeddings, the encoder, and the sentence embeddings of a head; hidden states without one.

    >>> inputs = encoder.embedder.inputs(tokens, np.zeros(3, np.int32), n_batch=4, length=12)
    >>> encode_batch(encoder.encoder, inputs, jnp.zeros((4, 12), jnp.int32), encoder.sentence.head).shape
    (4, 32)
    """
    mask_BT = inputs.mask_BT
    hidden_BTD = encode(encoder, embed_tokens(encoder.word_embeddings[...], inputs), mask_BT, type_BT, inputs.step_BT)
    return hidden_BTD if head is None else embed_sentences(head, hidden_BTD, mask_BT)
