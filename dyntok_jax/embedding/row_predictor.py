"""Everything that new tokens' rows are predicted from, as one pytree: for the jitted functions of host and device."""

from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Bool, Float, Int32

from dyntok_jax.embedding.average import average_with_filler
from dyntok_jax.embedding.hypernet import Hypernet, predict_embeddings
from dyntok_jax.models import Decoder


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowPredictor:
    """A hypernetwork and what it reads, or FVT.

    Attributes:
      source_VM: the model's input table; joined with its output table where the hypernetwork reads both.
      hypernet: parameters; None for FVT.
      reader: the decoder, for a hypernetwork that reads tokens with its first layers.
      filler_D: FVT's row of appended bytes, from `filler_row`.
      n_own: entries of the model's own vocabulary; later ids are appended bytes.

    >>> predictor = encoder.embedder.predictor
    >>> predictor.predict(jnp.array([[300, 301]]), jnp.ones((1, 2), bool), jnp.zeros(1, jnp.int32)).shape
    (1, 32)
    """

    source_VM: Float[Array, "V M"]
    hypernet: Hypernet | None
    reader: Decoder | None
    filler_D: Float[Array, " D"] | None
    n_own: int = field(metadata={"static": True})

    def predict(
        self,
        surface_US: Int32[Array, "U S"],
        is_subword_US: Bool[Array, "U S"],
        language_U: Int32[Array, " U"],
    ) -> Float[Array, "U D"]:
        """The input rows of tokens, given their constituents and, for multilingual hypernetworks, their language."""
        if self.hypernet is None:
            assert self.filler_D is not None, "FVT has a row for appended bytes"
            return average_with_filler(surface_US, is_subword_US, self.source_VM, self.filler_D, self.n_own)
        language = language_U if self.hypernet.config.n_langs else None
        found = predict_embeddings(self.hypernet, surface_US, is_subword_US, self.source_VM, language, self.reader)
        return found.input_UD
