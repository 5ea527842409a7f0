"""What a training step reads: texts tokenized twice, and vocabulary pieces written as shorter ones.

Both are pytrees of padded arrays, numpy on the host. Dimensions besides those of `types.py`: P new tokens of a batch,
whose rows are predicted · K tokens that keep their source row · R = P + K.
"""

from dataclasses import dataclass
from typing import Generic

import jax
from jaxtyping import Bool, Int32

from dyntok_jax.types import ArrayT


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SurfaceForms(Generic[ArrayT]):
    """Tokens to predict.

    Attributes:
      surface_PS: subword ids, 0 under a False mask.
      is_subword_PS: which entries are subwords; a row that is all False is padding.
      language_P: index of each token's language; 0 for a hypernetwork without languages.

    >>> forms = training_batch.texts.forms
    >>> bool((forms.is_subword_PS.sum(axis=1) != 1).all())  # merged tokens and padding: single subwords keep their row
    True
    """

    surface_PS: Int32[ArrayT, "P S"]
    is_subword_PS: Bool[ArrayT, "P S"]
    language_P: Int32[ArrayT, "P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextBatch(Generic[ArrayT]):
    """Texts as the model's own tokenizer writes them, and as dynamic tokens.

    Attributes:
      static_BL: the model's own ids.
      static_mask_BL: False for padding, on the right.
      row_BT: each dynamic token's row among the R of this batch: the P of `forms`, then the K of `kept_K`; 0 for
        padding.
      mask_BT: False for padding, on the right.
      aligned_BT: index in `static_BL` of the subword that ends at the same character as the token, so that both have
        read the same text up to there; -1 where there is none, for padding and for special tokens.
      is_masked_BT: tokens that a masked-LM objective hides and predicts; all False without such an objective.
      forms: the distinct new tokens.
      kept_K: the distinct source rows of tokens that keep theirs; padded with 0.
      n_kept: how many of the K are tokens.

    >>> texts = training_batch.texts
    >>> texts.static_mask_BL.shape[0], bool((texts.mask_BT.sum(axis=1) <= texts.static_mask_BL.sum(axis=1)).all())
    (4, True)
    """

    static_BL: Int32[ArrayT, "B L"]
    static_mask_BL: Bool[ArrayT, "B L"]
    row_BT: Int32[ArrayT, "B T"]
    mask_BT: Bool[ArrayT, "B T"]
    aligned_BT: Int32[ArrayT, "B T"]
    is_masked_BT: Bool[ArrayT, "B T"]
    forms: SurfaceForms[ArrayT]
    kept_K: Int32[ArrayT, "K"]
    n_kept: Int32[ArrayT, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PieceBatch(Generic[ArrayT]):
    """Vocabulary pieces whose rows are known, written as shorter pieces, or (identity) as themselves.

    Attributes:
      forms: the pieces as surface forms.
      target_P: the source row that each should be predicted as.

    >>> pieces = training_batch.pieces
    >>> parts = pieces.forms.surface_PS[1, pieces.forms.is_subword_PS[1]]
    >>> [tokenizer.token_text([part]) for part in parts.tolist()], tokenizer.token_text([int(pieces.target_P[1])])
    (['ı', 'n', 'd', 'a'], 'ında')
    """

    forms: SurfaceForms[ArrayT]
    target_P: Int32[ArrayT, "P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingBatch(Generic[ArrayT]):
    """One step's data: texts, pieces, or both; None where no objective needs it.

    >>> training_batch.texts.row_BT.shape[0], training_batch.pieces.target_P.shape
    (4, (16,))
    """

    texts: TextBatch[ArrayT] | None
    pieces: PieceBatch[ArrayT] | None
