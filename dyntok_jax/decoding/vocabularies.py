"""The vocabularies to generate in: the model's own, a far larger one, or its own plus the tokens of each prompt."""

from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int32

from dyntok_jax.decoding.sampling import mark_seen
from dyntok_jax.errors import InputError
from dyntok_jax.models import Decoder, embed_ids, logits
from dyntok_jax.options import CANDIDATES, PROBES
from dyntok_jax.text import ByteLevelTokenizer
from dyntok_jax.types import EXCLUDED, AnyArray
from dyntok_jax.vocabulary.index import MipsIndex, best, exact_search, place_index, rescore, search


@runtime_checkable
class Vocabulary(Protocol):
    """A set of tokens: the rows they are read as, and how candidates for the next one are proposed. A pytree.

    >>> isinstance(OWN, Vocabulary)
    True
    >>> OWN.embed(decoder.decoder, jnp.array([300, 301])).shape
    (2, 32)
    """

    def embed(self, model: Decoder, token_B: Int32[Array, "B"]) -> Float[Array, "B D"]:
        """The word embedding of each sequence's last token."""
        ...

    def propose(
        self, model: Decoder, hidden_BD: Float[Array, "B D"], seen_BV: Bool[Array, "B V"] | None
    ) -> tuple[Int32[Array, "B K"] | None, Float32[Array, "B K"], Bool[Array, "B K"] | None]:
        """Candidates (None: all, in order), their logits, and which of them a repetition penalty applies to."""
        ...

    def mark_seen(
        self, seen_BV: Bool[Array, "B V"], token_B: Int32[Array, "B"], is_active_B: Bool[Array, "B"]
    ) -> Bool[Array, "B V"]:
        """Adds each active sequence's token to the subwords it has seen."""
        ...

    def count_subwords(self, model: Decoder, token_B: Int32[Array, "B"]) -> Int32[Array, "B"]:
        """How many of the tokenizer's subwords each token has."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OwnVocabulary:
    """The model's own vocabulary, all of it scored at each step.

    Attributes:
      is_token_V: rows of the model's table that are a token's; the others are never proposed. None: all are.
    """

    is_token_V: Bool[AnyArray, "V"] | None = None

    @classmethod
    def of(cls, tokenizer: ByteLevelTokenizer, n_rows: int) -> "OwnVocabulary":
        """That of a tokenizer, in a table that may have more rows than it has tokens."""
        is_token_V = np.arange(n_rows) < tokenizer.n_own
        is_token_V[tokenizer.tokenless_ids[tokenizer.tokenless_ids < n_rows]] = False
        return cls(None if is_token_V.all() else is_token_V)

    def embed(self, model: Decoder, token_B: Int32[Array, "B"]) -> Float[Array, "B D"]:
        """See `Vocabulary`."""
        return embed_ids(model, token_B[:, None])[:, 0]

    def propose(
        self, model: Decoder, hidden_BD: Float[Array, "B D"], seen_BV: Bool[Array, "B V"] | None
    ) -> tuple[None, Float32[Array, "B V"], Bool[Array, "B V"] | None]:
        """See `Vocabulary`."""
        return None, self.among_tokens(logits(model, hidden_BD)), seen_BV

    def among_tokens(self, logits_V: Float32[Array, "*batch V"]) -> Float32[Array, "*batch V"]:
        """The logits, `EXCLUDED` in rows without a token."""
        if self.is_token_V is None:
            return logits_V
        is_token_V = jnp.asarray(self.is_token_V).reshape((1,) * (logits_V.ndim - 1) + (-1,))
        return jnp.where(is_token_V, logits_V, EXCLUDED)

    def mark_seen(
        self, seen_BV: Bool[Array, "B V"], token_B: Int32[Array, "B"], is_active_B: Bool[Array, "B"]
    ) -> Bool[Array, "B V"]:
        """See `Vocabulary`."""
        return mark_seen(seen_BV, token_B, is_active_B)

    def count_subwords(self, model: Decoder, token_B: Int32[Array, "B"]) -> Int32[Array, "B"]:  # noqa: ARG002
        """One each."""
        return jnp.ones_like(token_B)


OWN = OwnVocabulary()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LargeVocabulary:
    """A vocabulary of a table's rows; an index proposes the few tokens that could come next.

    A search for the k largest inner products with the last hidden state replaces the product with the whole output
    table. The next token is chosen among these k, by their exact logits.

    Attributes:
      input_VD: the row that each token is read as.
      output_VD: the row that it is scored by; None where that is the input row.
      index: of the output rows; None to score all of them.
      constituents_VS: the model's own subwords that each token is made of, -2 for a byte without a row, then -1.
      banned_E: tokens that are never chosen.
      k: candidates a step.
      n_probe: blocks of the index that a step reads for each sequence.
      mesh: over which all of it is sharded, see `shard_vocabulary`.

    >>> rows_VD = jnp.eye(4)
    >>> vocabulary = LargeVocabulary(rows_VD, None, None, jnp.arange(4)[:, None], k=2)
    >>> ids_BK, logits_BK, _ = vocabulary.propose(decoder.decoder, jnp.array([[0.0, 1.0, 3.0, 2.0]]), None)
    >>> ids_BK.tolist(), logits_BK.tolist()
    ([[2, 3]], [[3.0, 2.0]])
    """

    input_VD: Float[AnyArray, "V D"]
    output_VD: Float[AnyArray, "V D"] | None
    index: MipsIndex | None
    constituents_VS: Int32[AnyArray, "V S"]
    banned_E: Int32[AnyArray, "E"] = field(default_factory=lambda: np.zeros(0, np.int32))
    k: int = field(default=CANDIDATES, metadata={"static": True})
    n_probe: int = field(default=PROBES, metadata={"static": True})
    mesh: Mesh | None = field(default=None, metadata={"static": True})

    def embed(self, model: Decoder, token_B: Int32[Array, "B"]) -> Float[Array, "B D"]:  # noqa: ARG002
        """The input rows."""
        return jnp.asarray(self.input_VD).at[token_B].get(mode="fill", fill_value=0)

    def propose(
        self,
        model: Decoder,  # noqa: ARG002
        hidden_BD: Float[Array, "B D"],
        seen_BV: Bool[Array, "B V"] | None,
    ) -> tuple[Int32[Array, "B K"], Float32[Array, "B K"], Bool[Array, "B K"] | None]:
        """The best tokens that the index finds, in the order of their exact logits.

        A repetition penalty applies to a token whose constituents have all been seen, in the prompt or in the text.
        """
        output_VD = self.input_VD if self.output_VD is None else self.output_VD
        n_found = self.k + len(self.banned_E)  # so that k are left
        if self.index is None:
            ids_BK, _ = exact_search(output_VD, hidden_BD, n_found)
        else:
            ids_BK, _ = search(self.index, hidden_BD, n_found, self.n_probe, table_VD=output_VD, mesh=self.mesh)
        logits_BK = rescore(output_VD, hidden_BD, ids_BK)
        if len(self.banned_E):
            logits_BK = jnp.where(jnp.isin(ids_BK, self.banned_E), EXCLUDED, logits_BK)
        ids_BK, logits_BK = best(ids_BK, logits_BK, self.k)
        if seen_BV is None:
            return ids_BK, logits_BK, None
        return ids_BK, logits_BK, _all_seen(seen_BV, self.constituents_VS[jnp.maximum(ids_BK, 0)])

    def mark_seen(
        self, seen_BV: Bool[Array, "B V"], token_B: Int32[Array, "B"], is_active_B: Bool[Array, "B"]
    ) -> Bool[Array, "B V"]:
        """A token counts as its constituents."""
        return _mark_parts(seen_BV, self.constituents_VS[token_B], is_active_B)

    def count_subwords(self, model: Decoder, token_B: Int32[Array, "B"]) -> Int32[Array, "B"]:  # noqa: ARG002
        """See `Vocabulary`."""
        return _count_parts(self.constituents_VS[token_B])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptVocabulary:
    """The model's own V tokens, then the N that each sequence's prompt was merged to.

    The id of the n-th token of a prompt is V + n, for that sequence alone. All logits are exact.

    Attributes:
      input_RD: rows of new tokens, of all prompts.
      output_RD: the rows that they are scored by; None where those are the input rows.
      row_BN: the row of each prompt's n-th token, then -1.
      constituents_BNS: the model's own subwords that it is made of, then -1.
      own: the model's own vocabulary.

    >>> constituents_BNS = jnp.array([[[300, 301], [-1, -1]]])  # one new token, and one of padding
    >>> vocabulary = PromptVocabulary(jnp.ones((1, 32)), None, jnp.array([[0, -1]]), constituents_BNS)
    >>> _, logits_BK, _ = vocabulary.propose(decoder.decoder, jnp.ones((1, 32)), None)
    >>> logits_BK.shape[1] - decoder.config.vocab_size, logits_BK[0, -2:] > EXCLUDED
    (2, Array([ True, False], dtype=bool))
    """

    input_RD: Float[AnyArray, "R D"]
    output_RD: Float[AnyArray, "R D"] | None
    row_BN: Int32[AnyArray, "B N"]
    constituents_BNS: Int32[AnyArray, "B N S"]
    own: OwnVocabulary = OWN

    def embed(self, model: Decoder, token_B: Int32[Array, "B"]) -> Float[Array, "B D"]:
        """The model's rows, and those of new tokens."""
        n_own = model.word_embeddings.shape[0]
        own_BD = OWN.embed(model, jnp.minimum(token_B, n_own - 1))
        row_B1 = jnp.take_along_axis(jnp.asarray(self.row_BN), jnp.maximum(token_B - n_own, 0)[:, None], axis=1)
        new_BD = jnp.asarray(self.input_RD)[jnp.maximum(row_B1[:, 0], 0)].astype(own_BD.dtype)
        return jnp.where((token_B >= n_own)[:, None], new_BD, own_BD)

    def propose(
        self, model: Decoder, hidden_BD: Float[Array, "B D"], seen_BV: Bool[Array, "B V"] | None
    ) -> tuple[None, Float32[Array, "B K"], Bool[Array, "B K"] | None]:
        """All V + N tokens; a repetition penalty applies to new ones whose constituents have all been seen."""
        rows_RD = jnp.asarray(self.input_RD if self.output_RD is None else self.output_RD).astype(hidden_BD.dtype)
        new_BR = jnp.einsum("BD,RD->BR", hidden_BD, rows_RD, preferred_element_type=jnp.float32)
        new_BN = jnp.take_along_axis(new_BR, jnp.maximum(self.row_BN, 0), axis=1)
        new_BN = jnp.where(jnp.asarray(self.row_BN) < 0, EXCLUDED, new_BN)
        logits_BK = jnp.concatenate([self.own.among_tokens(logits(model, hidden_BD)), new_BN], axis=1)
        if seen_BV is None:
            return None, logits_BK, None
        is_seen_BN = _all_seen(seen_BV, jnp.asarray(self.constituents_BNS))
        return None, logits_BK, jnp.concatenate([seen_BV, is_seen_BN], axis=1)

    def mark_seen(
        self, seen_BV: Bool[Array, "B V"], token_B: Int32[Array, "B"], is_active_B: Bool[Array, "B"]
    ) -> Bool[Array, "B V"]:
        """A new token counts as its constituents."""
        n_own = seen_BV.shape[1]
        is_new_B = token_B >= n_own
        seen_BV = mark_seen(seen_BV, jnp.minimum(token_B, n_own - 1), is_active_B & ~is_new_B)
        return _mark_parts(seen_BV, self._parts(token_B, n_own), is_active_B & is_new_B)

    def count_subwords(self, model: Decoder, token_B: Int32[Array, "B"]) -> Int32[Array, "B"]:
        """See `Vocabulary`."""
        n_own = model.word_embeddings.shape[0]
        return jnp.where(token_B >= n_own, _count_parts(self._parts(token_B, n_own)), 1)

    def _parts(self, token_B: Int32[Array, "B"], n_own: int) -> Int32[Array, "B S"]:
        """The constituents of new tokens."""
        place_B11 = jnp.maximum(token_B - n_own, 0)[:, None, None]
        return jnp.take_along_axis(jnp.asarray(self.constituents_BNS), place_B11, axis=1)[:, 0]


def shard_vocabulary(large: LargeVocabulary, mesh: Mesh | None) -> LargeVocabulary:
    """Moves a vocabulary to the default device, or shards it over a mesh: tables by width, the index by blocks.

    Raises:
      InputError: the axis `model` does not divide the width.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, large)
    width, n_parts = large.input_VD.shape[1], mesh.shape["model"]
    if width % n_parts:
        raise InputError(f"{n_parts} devices on the mesh axis 'model' do not divide rows of width {width}.")
    by_width, whole = NamedSharding(mesh, P(None, "model")), NamedSharding(mesh, P())
    return replace(
        large,
        input_VD=jax.device_put(large.input_VD, by_width),
        output_VD=None if large.output_VD is None else jax.device_put(large.output_VD, by_width),
        index=None if large.index is None else place_index(large.index, mesh),
        constituents_VS=jax.device_put(large.constituents_VS, whole),
        banned_E=jax.device_put(large.banned_E, whole),
        mesh=mesh,
    )


def _all_seen(seen_BV, parts_BKS) -> Bool[Array, "B K"]:
    """Which tokens have all their constituents seen."""
    row_B11 = jnp.arange(len(parts_BKS), dtype=jnp.int32)[:, None, None]
    return (seen_BV[row_B11, jnp.maximum(parts_BKS, 0)] | (parts_BKS < 0)).all(axis=2)


def _count_parts(parts_BS) -> Int32[Array, "B"]:
    return (parts_BS != -1).sum(axis=1, dtype=jnp.int32)


def _mark_parts(seen_BV, parts_BS, is_active_B) -> Bool[Array, "B V"]:
    row_B1 = jnp.arange(len(parts_BS), dtype=jnp.int32)[:, None]
    return seen_BV.at[row_B1, jnp.maximum(parts_BS, 0)].max(is_active_B[:, None] & (parts_BS >= 0))
