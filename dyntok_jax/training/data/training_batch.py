"""What a training step reads: texts tokenized twice, and vocabulary pieces written as shorter ones.

Both are pytrees of padded arrays, numpy on the host. Beyond the legend in `types.py`: P new tokens of a batch, whose
rows are predicted · K tokens that keep their source row · R = P + K.
"""

from dataclasses import dataclass

import jax
from jaxtyping import Bool, Int32

from dyntok_jax.types import AnyArray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SurfaceForms:
    """Tokens to predict.

    Attributes:
      surface_PS: subword ids, 0 under a False mask.
      is_subword_PS: which entries are subwords; a row that is all False is padding.
      language_P: index of each token's language; 0 for a hypernetwork without languages.
    """

    surface_PS: Int32[AnyArray, "P S"]
    is_subword_PS: Bool[AnyArray, "P S"]
    language_P: Int32[AnyArray, "P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextBatch:
    """Texts as the model's own tokenizer writes them, and as dynamic tokens.

    Attributes:
      static_BL: the model's own ids.
      static_mask_BL: False for padding, on the right.
      row_BT: each dynamic token's row among the R of this batch: the P of `forms`, then the K of `kept_K`; 0 for
        padding.
      mask_BT: False for padding, on the right.
      aligned_BT: index in `static_BL` of the subword that ends at the same character as the token, so that both have
        read the same text up to there; -1 where there is none, for padding and for special tokens.
      is_masked_BT: tokens that a masked-LM objective hides and asks for; all False where none is wanted.
      forms: the new tokens, each distinct one once.
      kept_K: source rows of the distinct tokens that keep theirs; padded with 0.
      n_kept: how many of the K are tokens.
    """

    static_BL: Int32[AnyArray, "B L"]
    static_mask_BL: Bool[AnyArray, "B L"]
    row_BT: Int32[AnyArray, "B T"]
    mask_BT: Bool[AnyArray, "B T"]
    aligned_BT: Int32[AnyArray, "B T"]
    is_masked_BT: Bool[AnyArray, "B T"]
    forms: SurfaceForms
    kept_K: Int32[AnyArray, "K"]
    n_kept: Int32[AnyArray, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PieceBatch:
    """Vocabulary pieces whose rows are known, written as shorter pieces, or (identity) as themselves.

    Attributes:
      forms: the pieces as surface forms.
      target_P: the source row that each is to be predicted as.
    """

    forms: SurfaceForms
    target_P: Int32[AnyArray, "P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingBatch:
    """One step's data: texts, pieces, or both; None where no objective asks for it."""

    texts: TextBatch | None
    pieces: PieceBatch | None
