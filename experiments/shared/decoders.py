"""Decoders that share a model's parameters and differ in how they embed new tokens, or in how they read prompts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int32

from dyntok_jax import DynamicDecoder, Merging
from dyntok_jax.decoding import Prompt, ReadPrompts
from dyntok_jax.embedding import TokenEmbedder, predict_embeddings
from dyntok_jax.errors import InputError
from dyntok_jax.merging import RaggedTokens
from dyntok_jax.options import Goal
from dyntok_jax.text import ByteLevelTokenizer, RaggedSubwords
from dyntok_jax.vocabulary import GrownVocabulary, load_vocabulary


def decoders_by_method(model: str, hypernet: str | None) -> dict[str, DynamicDecoder]:
    """`fvt`, and `hypernet` where there is one, in the order of tables; they share the model's parameters."""
    loaded = DynamicDecoder.load(model, hypernet)
    if loaded.embedder.cache is None:
        return {"fvt": loaded}
    fvt = TokenEmbedder(loaded.tokenizer, loaded.decoder.word_embeddings[...])
    return {"fvt": with_embedder(loaded, fvt), "hypernet": loaded}


def with_embedder(
    decoder: DynamicDecoder, embedder: TokenEmbedder, entries: GrownVocabulary | None = None
) -> DynamicDecoder:
    """The same model with another embedder, and perhaps prompts read by longest prefix."""
    kept = {"end_ids": decoder.end_ids, "chat": decoder.chat, "special_tokens": decoder.special_tokens}
    if entries is None:
        return DynamicDecoder(decoder.config, decoder.decoder, embedder, **kept)
    return LongestPrefixDecoder(decoder.config, decoder.decoder, embedder, entries=entries, **kept)


def predicting_all(decoder: DynamicDecoder) -> TokenEmbedder:
    """The decoder's embedder, which also predicts the rows of single subwords, as the paper does."""
    model = decoder.decoder
    output_VD = None if model.output_embeddings is None else model.output_embeddings[...]
    return TokenEmbedder(
        decoder.tokenizer,
        model.word_embeddings[...],
        decoder.embedder.hypernet,
        output_VD=output_VD,
        reader=model,
        predict_all=True,
    )


def with_predicted_letters(decoder: DynamicDecoder, language: str, letters: str = "ABCD") -> DynamicDecoder:
    """The same model, whose output rows of ` A`, ` B`, … are the hypernetwork's predictions for these subwords.

    Raises:
      InputError: the model has an output table of its own and the hypernetwork predicts no rows of it.
    """
    model, hypernet = decoder.decoder, decoder.embedder.hypernet
    assert hypernet is not None, "without a hypernetwork nothing is predicted"
    ids_U1 = jnp.array([[decoder.read(["\n"]).continuation_ids(0, f" {letter}")[0]] for letter in letters], jnp.int32)
    input_VD, output = model.word_embeddings[...], model.output_embeddings
    output_VD = input_VD if output is None else output[...]
    config, parameters = hypernet
    if output is not None and not config.separate_output:
        raise InputError("The hypernetwork predicts no output rows, which letters are scored by: use the model's own.")
    source_VM = jnp.concatenate([input_VD, output_VD], axis=1) if config.separate_output else input_VD
    language_U = None
    if decoder.embedder.languages:
        language_U = jnp.asarray(decoder.embedder.language_indices(language, len(letters)))
    rows = predict_embeddings(parameters, ids_U1, jnp.ones_like(ids_U1, bool), source_VM, language_U, model)
    predicted_UD = rows.output_UD if config.separate_output else rows.input_UD
    assert predicted_UD is not None, "it has a head for each table"
    copy = nnx.merge(*nnx.split(model))
    copy.output_embeddings = nnx.data(nnx.Param(output_VD.at[ids_U1[:, 0]].set(predicted_UD.astype(output_VD.dtype))))
    kept = {"end_ids": decoder.end_ids, "chat": decoder.chat, "special_tokens": decoder.special_tokens}
    return DynamicDecoder(decoder.config, copy, decoder.embedder, **kept)


def entries_of(vocabulary: Path | None, tokenizer: ByteLevelTokenizer) -> GrownVocabulary:
    """The entries of a folder of `dyntok build-vocab`; without one, the model's own vocabulary."""
    if vocabulary is None:
        return GrownVocabulary(tokenizer, np.zeros((0, 2), np.int32), "pretoken")
    return load_vocabulary(vocabulary, tokenizer)


class LongestPrefixDecoder(DynamicDecoder):
    """A decoder that reads prompts in a vocabulary's tokens, from the left always the longest that fits.

    Nothing is merged: goals are ignored. Tokens that the model's own vocabulary lacks get predicted rows. Digits stay
    apart.
    """

    def __init__(self, *args, entries: GrownVocabulary, **kept):
        super().__init__(*args, **kept)
        self.entries = entries

    def read(
        self,
        prompts: Sequence[Prompt],
        *,
        goal: Goal | None = None,  # noqa: ARG002
        merging: Merging | None = None,  # noqa: ARG002
        language: str | Sequence[str] | None = None,
        batch_size: int = 8,
        limit: int | None = None,
    ) -> ReadPrompts:
        """See `DynamicDecoder.read`."""
        static = super().read(prompts, language=language, batch_size=batch_size, limit=limit)
        reader = self.text_encoder.twin if static.is_twin_read else self.text_encoder
        subwords = reader.encode(
            static.inputs,
            boundary=self.entries.boundary,
            add_special_tokens=static.adds_special,
            protect="digits",
        )
        return replace(static, tokens=spelt_out(self.entries, self.entries.split(subwords)), is_static=False)


def spelt_out(entries: GrownVocabulary, tokens: RaggedSubwords) -> RaggedTokens:
    """Texts in tokens of a vocabulary as tokens that are made of the model's own subwords."""
    is_new_M = tokens.ids_N >= entries.n_own
    form_MS = np.full((len(tokens.ids_N), max(entries.constituents_ES.shape[1], 1)), -1, np.int32)
    form_MS[:, 0] = tokens.ids_N
    form_MS[is_new_M] = entries.constituents_ES[tokens.ids_N[is_new_M] - entries.n_own]
    is_subword_MS = form_MS >= 0
    length_M = is_subword_MS.sum(axis=1).astype(np.int32)
    ends_M = np.append(0, np.cumsum(length_M))

    def repeated(values_M: np.ndarray) -> np.ndarray:
        return np.repeat(values_M, length_M, axis=0)

    ids_N: Int32[np.ndarray, "N"] = form_MS[is_subword_MS]
    subwords = RaggedSubwords(
        ids_N=ids_N,
        segment_N=repeated(tokens.segment_N),
        pretoken_N=repeated(tokens.pretoken_N),
        type_N=repeated(tokens.type_N),
        text_N=repeated(tokens.text_N),
        span_N2=repeated(tokens.span_N2),
        word_N=repeated(tokens.word_N),
        is_counted_N=repeated(tokens.is_counted_N),
        offsets=ends_M[tokens.offsets],
    )
    return RaggedTokens(subwords, ends_M[:-1].astype(np.int32), length_M, tokens.offsets)
