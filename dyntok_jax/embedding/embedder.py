"""`TokenEmbedder`: which tokens of a batch need a new row, and that row, by hypernetwork or by FVT."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from dyntok_jax.embedding.average import filler_row
from dyntok_jax.embedding.cache import EmbeddingCache, namespace
from dyntok_jax.embedding.hypernet import Hypernet, predict_embeddings
from dyntok_jax.embedding.hypernet_config import HypernetConfig, check_hypernet_fits
from dyntok_jax.embedding.language_codes import language_index, languages_of
from dyntok_jax.embedding.new_tokens import distinct_forms, wants_row
from dyntok_jax.embedding.predict import fetch_rows
from dyntok_jax.embedding.row_predictor import RowPredictor
from dyntok_jax.embedding.surface import retokenized
from dyntok_jax.embedding.token_inputs import TokenInputs
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.merging import RaggedTokens, resolve_merging
from dyntok_jax.models import Decoder
from dyntok_jax.options import Merging, Positions, Scope, SurfaceMode
from dyntok_jax.parameters import fingerprint
from dyntok_jax.text import SURFACE_BUCKETS, ByteLevelTokenizer, bucket, pad_ragged
from dyntok_jax.types import MergedBatch, UniqueTokens

DEFAULT_MAX_SUBWORDS = 7
"""The surface length that ZeTT's hypernetworks were trained for; the limit for FVT's tokens, too."""
DEFAULT_CACHE_ROWS = 1 << 17


class TokenEmbedder:
    """Predicts rows for tokens that are not in the model's table; without a hypernetwork, the mean of their subwords.

    Attributes:
      tokenizer: of the model.
      source_VD: the model's input table.
      hypernet: config and parameters, or None for FVT.
      languages: codes of the hypernetwork's languages; empty if it has none.
      surface: the surface form of a token that the hypernetwork reads.
      predict_all: predict single subwords too, as the paper does.
      predictor: what rows are predicted from.

    >>> embedder = TokenEmbedder(tokenizer, encoder.encoder.word_embeddings[...])  # FVT
    >>> row_M, rows_UD = embedder.new_rows(tokens, np.zeros(3, np.int32))
    >>> int((row_M >= 0).sum()), rows_UD.shape  # eight merged tokens
    (8, (8, 32))
    """

    def __init__(
        self,
        tokenizer: ByteLevelTokenizer,
        source_VD: Float[Array, "V D"],
        hypernet: tuple[HypernetConfig, Hypernet] | None = None,
        *,
        output_VD: Float[Array, "V D"] | None = None,
        reader: Decoder | None = None,
        surface: SurfaceMode = "constituents",
        predict_all: bool = False,
        cache_rows: int = DEFAULT_CACHE_ROWS,
    ):
        """Takes the model's tables; `output_VD` is its output table where that differs from the input table.

        `reader` is the decoder itself, for hypernetworks that read tokens with its first layers.

        Raises:
          ConfigError: the hypernetwork or the table was made for another width or vocabulary.
        """
        if source_VD.shape[0] < tokenizer.n_own:
            raise ConfigError(
                f"The tokenizer has {tokenizer.n_own} subwords and the model's table {source_VD.shape[0]} rows: "
                "use the tokenizer that was saved with the model, or resize the model's embeddings."
            )
        if surface not in get_args(SurfaceMode):
            raise InputError(f"surface must be one of {', '.join(get_args(SurfaceMode))}, got {surface!r}.")
        self.tokenizer, self.source_VD, self.hypernet = tokenizer, source_VD, hypernet
        self.surface, self.predict_all = surface, predict_all
        source_VM, uses_reader = source_VD, False
        self.languages: tuple[str, ...] = ()
        self._cache: EmbeddingCache | None = None
        if hypernet is not None:
            config, _ = hypernet
            check_hypernet_fits(
                config,
                width=source_VD.shape[1],
                vocab_size=tokenizer.n_own,
                n_appended=tokenizer.vocab_size - tokenizer.n_own,
                separate_output=output_VD is not None,
            )
            uses_reader = bool(config.read_layers)
            # joined once: concatenation at every prediction would cost more
            if output_VD is not None and config.separate_output:
                source_VM = jnp.concatenate([source_VD, output_VD], axis=1)
            self.languages = languages_of(config.n_langs, config.langs)
            self._cache = EmbeddingCache(cache_rows, source_VD.shape[1])
        self.predictor = RowPredictor(
            source_VM,
            None if hypernet is None else hypernet[1],
            reader if uses_reader else None,
            filler_row(tokenizer, source_VD) if hypernet is None else None,
            tokenizer.n_own,
        )

    @property
    def cache(self) -> EmbeddingCache | None:
        """Rows predicted so far; None under FVT, which costs as little as a look-up."""
        return self._cache

    @cache.setter
    def cache(self, cache: EmbeddingCache) -> None:
        """Raises InputError without a hypernetwork, or if the cache's rows have another width."""
        if self.hypernet is None:
            raise InputError(
                "Without a hypernetwork nothing is predicted, so there is nothing to cache: load the model with one."
            )
        if cache.width != self.source_VD.shape[1]:
            raise InputError(
                f"The cache's rows are {cache.width} wide and the model's {self.source_VD.shape[1]}: give a cache that "
                "was saved for this model."
            )
        self._cache = cache

    @property
    def max_subwords(self) -> int:
        """The most subwords of a token that a row can be predicted for."""
        return self.hypernet[0].max_subwords if self.hypernet else DEFAULT_MAX_SUBWORDS

    def language_indices(self, language: str | Sequence[str] | None, n_texts: int) -> Int32[np.ndarray, "texts"]:
        """The hypernetwork's index of each text's language; all 0 where it has no languages.

        Raises:
          InputError: a language is missing or unknown, or given where the hypernetwork has none.
        """
        if not self.languages:
            if language is not None:
                what = "The mean of subwords (FVT) knows" if self.hypernet is None else "This hypernetwork has"
                raise InputError(f"{what} no languages: leave the language out.")
            return np.zeros(n_texts, np.int32)
        if language is None:
            known = " ".join(self.languages)
            raise InputError(f"This hypernetwork is multilingual: give the language of the texts ({known}).")
        codes = [language] * n_texts if isinstance(language, str) else language
        if len(codes) != n_texts:
            raise InputError(f"There are {n_texts} texts and {len(codes)} languages: give one for all, or one each.")
        return np.array([language_index(code, self.languages) for code in codes], np.int32)

    def resolve(self, merging: Merging, *, scope: Scope, merge_last: bool, protect: str | None = None) -> Merging:
        """The merging options with `auto` filled in for this model (see `resolve_merging`).

        Raises:
          InputError: a merge list of another tokenizer or boundary, or with tokens too long for the hypernetwork.
        """
        return resolve_merging(
            merging,
            tokenizer=self.tokenizer.fingerprint,
            scope=scope,
            merge_last=merge_last,
            protect=protect,
            longest=self.max_subwords,
            is_longest_strict=self.hypernet is not None,
        )

    def inputs(
        self,
        tokens: RaggedTokens,
        language_B: Int32[np.ndarray, "B"],
        *,
        n_batch: int,
        length: int,
        n_rows: Sequence[int] = (),
        is_static: bool = False,
        positions: Positions = "tokens",
    ) -> TokenInputs[np.ndarray]:
        """The tokens of a batch as the model reads them, padded to `n_batch` sequences of `length`.

        Args:
          tokens: of the batch's texts.
          language_B: from `language_indices`.
          n_batch: sequences, padding included.
          length: tokens a sequence, padding included; it must hold them all.
          n_rows: sizes to pad the new rows to; the smallest that holds them is used. Without one, there is a row for
            every token of the padded batch, so the number of new tokens compiles nothing.
          is_static: every token is one of the model's own subwords and keeps its source row.
          positions: what the model's positions count.
        """

        def lay_out(values_M, padding):
            return pad_ragged(values_M, tokens.offsets, n_batch, length, padding=padding)

        first_M = tokens.subwords.ids_N[tokens.start_M]
        row_BT, rows_RD = None, None
        if not is_static:
            row_M, rows_UD = self.new_rows(tokens, language_B)
            row_BT = lay_out(row_M, 0)
            size = next((n for n in n_rows if n >= len(rows_UD)), n_batch * length)
            rows_RD = np.zeros((size, self.source_VD.shape[1]), np.float32)
            rows_RD[: len(rows_UD)] = rows_UD
        return TokenInputs(
            # only new tokens have clipped ids, and they are read by `row_BT`
            ids_BT=lay_out(np.minimum(first_M, np.int32(self.tokenizer.n_own - 1)), 0),
            row_BT=row_BT,
            rows_RD=rows_RD,
            mask_BT=lay_out(np.ones(len(first_M), bool), False),
            step_BT=lay_out(tokens.length_M, 0) if positions == "subwords" else None,
        )

    def new_rows(
        self, tokens: RaggedTokens, language_B: Int32[np.ndarray, "B"]
    ) -> tuple[Int32[np.ndarray, "M"], Float32[np.ndarray, "U D"]]:
        """The rows of all tokens without a source row; each distinct token is predicted once.

        Args:
          tokens: of some texts.
          language_B: from `language_indices`, of each text.

        Returns:
          For each token the index of its row, -1 where it keeps its source row; and the rows.
        """
        wanted_M, forms, language_U = self._new_forms(tokens, language_B)
        rows_UD = fetch_rows(
            partial(_predict, self.predictor),
            forms.surface_US,
            forms.is_subword_US,
            language_U,
            width=self.source_VD.shape[1],
            cache=self.cache,
            namespaces=[self._namespaces[index] for index in language_U],
            rewrite=self._rewrite,
        )
        return np.where(wanted_M, forms.inverse_BT[0], -1).astype(np.int32), rows_UD

    def new_output_rows(
        self, tokens: RaggedTokens, language_B: Int32[np.ndarray, "B"], output_VD: Float[Array, "V D"]
    ) -> Float32[np.ndarray, "U D"]:
        """The output rows of the tokens of `new_rows`, in the same order; nothing is cached.

        Args:
          tokens: of some texts.
          language_B: from `language_indices`, of each text.
          output_VD: the model's output table, where it differs from its input table.

        Raises:
          ConfigError: the hypernetwork predicts no rows of an output table.
        """
        if self.hypernet is not None and not self.hypernet[0].separate_output:
            raise ConfigError(
                "The model has a separate output table, and this hypernetwork predicts no rows of it: use one with "
                "separate_out_embeddings = true, or none (FVT)."
            )

        def predict(surface_US, is_subword_US, language_U) -> Float[Array, "U D"]:
            if self.hypernet is None:
                mean = RowPredictor(output_VD, None, None, filler_row(self.tokenizer, output_VD), self.tokenizer.n_own)
                return _predict(mean, surface_US, is_subword_US, language_U)
            languages = language_U if self.languages else None
            return _predict_output(self.hypernet[1], surface_US, is_subword_US, self.predictor.source_VM, languages)

        _, forms, language_U = self._new_forms(tokens, language_B)
        surface = forms.surface_US, forms.is_subword_US
        return fetch_rows(predict, *surface, language_U, width=output_VD.shape[1], rewrite=self._rewrite)

    def _new_forms(
        self, tokens: RaggedTokens, language_B: Int32[np.ndarray, "B"]
    ) -> tuple[Bool[np.ndarray, "M"], UniqueTokens[np.ndarray], Int32[np.ndarray, "U"]]:
        """Which tokens have no source row, their distinct forms (of a batch of one row), and each form's language."""
        ids_1N = tokens.subwords.ids_N[None]
        merged = MergedBatch(
            start_BT=tokens.start_M[None],
            length_BT=tokens.length_M[None],
            mask_BT=np.ones((1, len(tokens.start_M)), bool),
            n_merges=None,
        )
        wanted_1M = wants_row(
            self.tokenizer,
            ids_1N,
            merged,
            predict_all=self.predict_all and self.hypernet is not None,
        )
        width = self.max_subwords
        if self.hypernet is None:  # the mean takes any length: pad to a bucket
            width = bucket(int(tokens.length_M.max(initial=1)), SURFACE_BUCKETS[1:])
        language_1M = np.repeat(language_B, tokens.lengths)[None]
        return wanted_1M[0], *distinct_forms(ids_1N, merged, wanted_1M, language_1M, width=width)

    @property
    def _rewrite(self) -> Callable[..., tuple] | None:
        return partial(retokenized, self.tokenizer) if self.surface == "retokenized" else None

    @cached_property
    def _namespaces(self) -> list[bytes]:
        """The cache namespace of each language."""
        if self.hypernet is None:
            return [b""]
        parts = {
            "weights": fingerprint((self.predictor.source_VM, self.hypernet[1], self.predictor.reader)),
            "tokenizer": self.tokenizer.fingerprint,
            "surface": self.surface,
            "config": repr(self.hypernet[0]),
        }
        return [namespace(**parts, language=code, index=i) for i, code in enumerate(self.languages or ("",))]


@jax.jit
def _predict_output(hypernet, surface_US, is_subword_US, source_VM, language_U) -> Float[Array, "U D"] | None:
    return predict_embeddings(hypernet, surface_US, is_subword_US, source_VM, language_U).output_UD


_predict = jax.jit(RowPredictor.predict)

COMPILED_STEPS = (_predict,)
"""Everything that embedding the tokens of a batch compiles."""
