"""`DynamicDecoder`: a trained decoder that reads its own tokens or merged ones, and can generate new tokens, too."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import UInt32

from dyntok_jax.adapters import fold_adapters
from dyntok_jax.convert import load_adapter
from dyntok_jax.decoding.batch_decoder import CHUNK, BatchDecoder
from dyntok_jax.decoding.loaded_vocabulary import LoadedVocabulary, load_large_vocabulary
from dyntok_jax.decoding.multiple_choice import choice_of, choice_prompts
from dyntok_jax.decoding.prompt_entries import PromptEntries
from dyntok_jax.decoding.prompts import Prompt, ReadPrompts, begin_id, end_ids, is_ids, read_prompts
from dyntok_jax.decoding.results import Choice, GeneratedText, ScoredText
from dyntok_jax.decoding.sampling import SamplingConfig
from dyntok_jax.decoding.text_stream import TextStream
from dyntok_jax.decoding.vocabularies import LargeVocabulary
from dyntok_jax.decoding.vocabulary_choice import VocabularyChoice, candidates_of, longest_token
from dyntok_jax.embedding import DEFAULT_CACHE_ROWS, TokenEmbedder
from dyntok_jax.errors import InputError
from dyntok_jax.files import load_model
from dyntok_jax.models import Decoder, DecoderConfig
from dyntok_jax.options import (
    AUTO,
    CANDIDATES,
    DEFAULT_DECODER,
    PROBES,
    Goal,
    Merging,
    SpecialTokens,
    Style,
    SurfaceMode,
    check_choice,
    check_list,
    one_merging,
    whole_number,
)
from dyntok_jax.text import ByteLevelTokenizer, ChatTemplate, TextEncoder, check_text, group_by_length

STOP_CHUNK = 8
"""Steps between two checks for stop strings; tokens computed after one are discarded."""
MOST_CONTINUATIONS = 32
"""Continuations scored at a time."""
GREEDY = SamplingConfig()


class DynamicDecoder:
    """A decoder, its tokenizer, and the embedder of a prompt's new tokens: a hypernetwork, or FVT without one.

    Attributes:
      config: of the decoder.
      decoder: its parameters.
      text_encoder: splits prompts into subwords.
      embedder: predicts rows for new tokens, and caches them.
      end_ids: tokens that end a text.
      begin_id: the token before a text without a prompt, or None.
      chat: its chat template, or None.
      special_tokens: how special tokens written in prompts are read.
      mesh: over which parameters, cache and batches are sharded; None for the default device.

    >>> decoder = DynamicDecoder.load(decoder_folder, None)  # without a hypernetwork: FVT
    >>> (text,) = decoder.generate(["All human beings"], max_tokens=4)
    >>> len(text.ids), text.finish
    (4, 'length')
    """

    def __init__(
        self,
        config: DecoderConfig,
        decoder: Decoder,
        embedder: TokenEmbedder,
        *,
        end_ids: Sequence[int] = (),
        begin_id: int | None = None,
        chat: ChatTemplate | None = None,
        special_tokens: SpecialTokens = "auto",
        mesh: Mesh | None = None,
    ):
        self.config, self.decoder, self.embedder = config, decoder, embedder
        self.text_encoder = TextEncoder(embedder.tokenizer)
        self.end_ids, self.begin_id, self.chat, self.mesh = tuple(end_ids), begin_id, chat, mesh
        self.special_tokens: SpecialTokens = check_choice("special_tokens", special_tokens, get_args(SpecialTokens))
        self._batches = BatchDecoder(config, decoder, embedder, self.end_ids, mesh)

    @property
    def tokenizer(self) -> ByteLevelTokenizer:
        """The model's tokenizer and its byte-level form."""
        return self.embedder.tokenizer

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_DECODER,
        hypernet: str | Path | None = AUTO,
        *,
        adapter: str | Path | None = None,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        keep_normalizer: bool = True,
        special_tokens: SpecialTokens = "auto",
        surface: SurfaceMode = "constituents",
        predict_all: bool = False,
        cache_rows: int = DEFAULT_CACHE_ROWS,
    ) -> "DynamicDecoder":
        """Loads a model, its tokenizer and a hypernetwork.

        Args:
          model: a folder, a GGUF file, a Hub id, or a packaged model's name (`smollm2`).
          hypernet: a folder or Hub id of a ZeTT hypernetwork; `auto` for the one that comes with the model, if any;
            None for FVT.
          adapter: a folder of peft with a LoRA adapter of the model, which is multiplied into its weights.
          dtype: of the parameters and the computation; logits are always float32.
          mesh: shards parameters, key/value cache and batches by the rules in `sharding.py`.
          keep_normalizer: normalise text as in the model's training; ZeTT and the paper's reference do not.
          special_tokens: how special tokens written in prompts are read: as such (`special`) or as `text`; `auto`: as
            such in plain texts, as text in chats, where only the template's own are meant.
          surface: the surface form of a token that the hypernetwork reads.
          predict_all: predict the embeddings of single subwords too, as the paper does.
          cache_rows: the most embeddings kept.

        Raises:
          ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: see `hub`, `convert`, `text`. A mesh that
            does not divide the heads is a ConfigError.
        """
        # on a CPU unstacked layers decode faster (see `unstacked`); elsewhere a scan compiles faster
        is_stacked = mesh is not None or jax.default_backend() != "cpu"
        loaded = load_model(
            model,
            hypernet,
            kind="decoder",
            dtype=dtype,
            mesh=mesh,
            keep_normalizer=keep_normalizer,
            is_stacked=is_stacked,
        )
        config, decoder = loaded.config, loaded.parameters
        if adapter is not None:
            decoder = fold_adapters(decoder, [load_adapter(adapter, config)])
        output_embeddings = decoder.output_embeddings
        embedder = TokenEmbedder(
            loaded.tokenizer,
            decoder.word_embeddings[...],
            loaded.hypernet,
            output_VD=None if output_embeddings is None else output_embeddings[...],
            reader=loaded.parameters,  # rows are those that the adapter was trained with
            surface=surface,
            predict_all=predict_all,
            cache_rows=cache_rows,
        )
        return cls(
            config,
            decoder,
            embedder,
            end_ids=end_ids(loaded.folder, loaded.tokenizer),
            begin_id=begin_id(loaded.folder, loaded.tokenizer),
            chat=ChatTemplate.load(loaded.folder),
            special_tokens=special_tokens,
            mesh=mesh,
        )

    def load_vocabulary(
        self,
        vocabulary: str | os.PathLike,
        table: str | os.PathLike,
        index: str | os.PathLike | None = None,
        *,
        k: int = CANDIDATES,
        n_probe: int = PROBES,
    ) -> LoadedVocabulary:
        """Loads a large vocabulary for `generate` and `stream`.

        Args:
          vocabulary: folder that `dyntok build-vocab` wrote.
          table: folder of its rows, written by `dyntok embed-vocab`.
          index: folder of an index of the rows, written by `dyntok build-index`; None scores all rows at every step.
          k: candidates of every step: the tokens with the largest logits.
          n_probe: blocks of the index that every step reads for each text; all of them find the exact k best.

        Raises:
          InputError: a folder holds something else, or they do not belong together or to the model; there are fewer
            than k tokens; the table is larger than the memory.
          ConfigError: the mesh does not divide the rows.
          CheckpointError: a folder is damaged.
        """
        return load_large_vocabulary(
            vocabulary,
            table,
            index,
            tokenizer=self.tokenizer,
            model=self.decoder,
            mesh=self.mesh,
            k=k,
            n_probe=n_probe,
        )

    def read(
        self,
        prompts: Sequence[Prompt],
        *,
        goal: Goal | None = None,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        batch_size: int = 8,
        limit: int | None = None,
    ) -> ReadPrompts:
        """Tokenizes prompts, and merges them if asked; the other methods begin with this.

        Args:
          prompts: plain texts, chats as lists of turns (`{"role": …, "content": …}`), or ids of the model's own tokens,
            special ones and all, which cannot be merged.
          goal: when merging stops. None, the default, is static tokenization, the model's own tokenizer and ids: merged
            words lose most of their meaning today; figures are in the README. `Share(100)` merges as far as possible.
          merging: all merging options, instead of `goal`; by default each prompt is merged alone, and its digits and
            its last segment stay unmerged.
          language: code of the prompts' language, one for all or one each; only for multilingual hypernetworks.
          batch_size: prompts a batch.
          limit: the most tokens a prompt, by default as many as the model has positions.

        Raises:
          InputError: invalid prompts, language or options, or a merge list of another tokenizer or boundary.
          ConfigError: a prompt is a chat and the model has no chat template.
          TooLongError: a prompt has more tokens than `limit`.
        """
        check_list("prompts", prompts)
        batch_size = whole_number("batch_size", batch_size)
        merging = self.embedder.resolve(
            one_merging(goal, merging, None), scope="example", merge_last=False, protect="digits"
        )
        language_N = np.zeros(len(prompts), np.int32)
        if not merging.is_static or language is not None:
            language_N = self.embedder.language_indices(language, len(prompts))
        return read_prompts(
            self.text_encoder,
            prompts,
            merging,
            self.chat,
            special_tokens=self.special_tokens,
            language_N=language_N,
            batch_size=batch_size,
            limit=self.config.max_positions if limit is None else whole_number("limit", limit),
        )

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        goal: Goal | None = None,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        max_tokens: int = 128,
        stop: Sequence[str] | None = None,
        sampling: SamplingConfig = GREEDY,
        seed: int | Sequence[int] = 0,
        vocabulary: VocabularyChoice = None,
        batch_size: int = 8,
        on_text: Callable[[int, str], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[GeneratedText]:
        """Continues each prompt.

        Args:
          prompts: plain texts, chats, or ids (see `read`).
          goal: when merging of the prompts stops; None, the default, leaves them static (see `read`).
          merging: all merging options, instead of `goal`.
          language: code of the prompts' language, one for all or one each; only for multilingual hypernetworks.
          max_tokens: the most tokens a text, the one that ends it included.
          stop: strings that end a text, or None; the text does not include them.
          sampling: how tokens are chosen; by default the most probable one.
          seed: one for all, or one each. A text depends on its seed and its prompt, never on the rest of the batch:
            several samples of a prompt need several seeds.
          vocabulary: to generate in, from `load_vocabulary`; `prompt` for the model's own plus the tokens that each
            prompt was merged to, which needs a goal; None for the model's own.
          batch_size: prompts a batch.
          on_text: called with a prompt's number and its next piece of text, token by token, which costs some speed.
          on_progress: called with the number of prompts of each finished batch.

        Returns:
          The texts, in the order of the prompts.

        Raises:
          InputError, ConfigError: invalid prompts or options.
          TooLongError: a prompt and `max_tokens` exceed the model's positions.
          NotANumberError: the model's logits are NaN or infinite.
        """
        started = time.perf_counter()
        max_tokens, batch_size = whole_number("max_tokens", max_tokens), whole_number("batch_size", batch_size)
        read = self.read(prompts, goal=goal, merging=merging, language=language, batch_size=batch_size)
        self._check_room(read, max_tokens, vocabulary)
        streams, candidates = self._streams(read, stop, sampling, vocabulary)
        seed_N = _seeds(seed, len(prompts))
        written: dict[int, GeneratedText] = {}
        chunk = 1 if on_text is not None else STOP_CHUNK if stop else CHUNK
        for rows in group_by_length(read.n_tokens, batch_size):
            seconds = []
            seed_B = seed_N[rows]
            for pieces in self._batches.write(read, rows, streams, max_tokens, sampling, seed_B, chunk, candidates):
                seconds.append(time.perf_counter() - started)
                if on_text is not None:
                    for row, piece in pieces.items():
                        on_text(row, piece)
            for row in rows.tolist():
                written[row] = _generated(read, row, streams[row], seconds)
            if on_progress is not None:
                on_progress(len(rows))
        return [written[row] for row in range(len(prompts))]

    def stream(
        self,
        prompt: Prompt,
        *,
        goal: Goal | None = None,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        max_tokens: int = 128,
        stop: Sequence[str] | None = None,
        sampling: SamplingConfig = GREEDY,
        seed: int = 0,
        vocabulary: VocabularyChoice = None,
    ) -> Iterator[str]:
        """Continues one prompt and yields the text as it is generated, whole characters at a time.

        Arguments and errors are those of `generate`; the pieces together are its text.

        >>> pieces = list(decoder.stream("All human beings", max_tokens=4))
        >>> "".join(pieces) == decoder.generate(["All human beings"], max_tokens=4)[0].text
        True
        """
        max_tokens = whole_number("max_tokens", max_tokens)
        read = self.read([prompt], goal=goal, merging=merging, language=language)
        self._check_room(read, max_tokens, vocabulary)
        (streams, candidates), seed_B = self._streams(read, stop, sampling, vocabulary), _seeds(seed, 1)
        for pieces in self._batches.write(read, np.arange(1), streams, max_tokens, sampling, seed_B, 1, candidates):
            yield from filter(None, pieces.values())

    def score(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[str | Sequence[int]],
        *,
        goal: Goal | None = None,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        batch_size: int = 8,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[ScoredText]:
        """The probability of a text after each prompt, in the model's own tokens.

        Args:
          prompts: plain texts, chats, or ids (see `read`); one that is given several times is read once.
          continuations: the text after each prompt, with its leading space; or its ids.
          goal: when merging of the prompts stops; None, the default, leaves them static (see `read`).
          merging: all merging options, instead of `goal`.
          language: code of each prompt's language, or one for all; only for multilingual hypernetworks.
          batch_size: different prompts a batch.
          on_progress: called with the number of continuations just scored, several times.

        Raises:
          InputError, ConfigError: invalid prompts or options, or not one continuation for each prompt.
          TooLongError: a prompt and its continuation exceed the model's positions.
          NotANumberError: the model's logits are NaN or infinite.
        """
        check_list("prompts", prompts)
        check_list("continuations", continuations)
        if len(prompts) != len(continuations):
            raise InputError(f"There are {len(prompts)} prompts and {len(continuations)} continuations: give one each.")
        batch_size = whole_number("batch_size", batch_size)
        for place, text in enumerate(continuations):
            if not is_ids(text):
                check_text(text, f"Continuation {place}")
        number: dict[str, int] = {}
        owner_N = np.array([number.setdefault(repr(prompt), len(number)) for prompt in prompts], np.int32)
        first = np.unique(owner_N, return_index=True)[1]
        read = self.read(
            [prompts[at] for at in first.tolist()], goal=goal, merging=merging, language=language, batch_size=batch_size
        )
        ids = [read.continuation_ids(int(owner), text) for owner, text in zip(owner_N, continuations, strict=True)]
        found: dict[int, ScoredText] = {}
        for rows in group_by_length(read.n_tokens, batch_size):
            members = np.flatnonzero(np.isin(owner_N, rows))
            for at in range(0, len(members), MOST_CONTINUATIONS):
                some = members[at : at + MOST_CONTINUATIONS]
                log_BO, greedy_BO = self._batches.score(read, rows, owner_N[some], [ids[n] for n in some])
                for row, n in enumerate(map(int, some)):
                    owner, length, text = owner_N[n], len(ids[n]), continuations[n]
                    found[n] = ScoredText(
                        text=text if isinstance(text, str) else self.tokenizer.own.decode(ids[n]),
                        ids=ids[n],
                        log_probs_O=log_BO[row, :length],
                        greedy_O=greedy_BO[row, :length],
                        prompts=read,
                        row=int(owner),
                    )
                if on_progress is not None:
                    on_progress(len(some))
        return [found[n] for n in range(len(prompts))]

    def choose(
        self,
        questions: Sequence[str],
        options: Sequence[Sequence[str]],
        *,
        style: Style = "letters",
        context: str = "",
        goal: Goal | None = None,
        merging: Merging | None = None,
        language: str | Sequence[str] | None = None,
        batch_size: int = 8,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Choice]:
        """Answers multiple-choice questions.

        Args:
          questions: one text each.
          options: the options of each question.
          style: `letters`, as in MMLU (Hendrycks et al. 2021): each option is listed after a letter, and the most
            probable letter is the answer; or `full`: the option with the fewest bits per byte after the question.
          context: text put before each question, such as solved examples.
          goal: when merging of the questions stops; None, the default, leaves them static (see `read`).
          merging: all merging options, instead of `goal`.
          language: code of the questions' language; only for multilingual hypernetworks.
          batch_size: different questions a batch.
          on_progress: called with the number of options just scored, several times.

        Raises:
          InputError: an unknown style, or a question with no options or more than there are letters.
        """
        prompts, continuations = choice_prompts(questions, options, style, context)
        scored = iter(
            self.score(
                prompts,
                continuations,
                goal=goal,
                merging=merging,
                language=language,
                batch_size=batch_size,
                on_progress=on_progress,
            )
        )
        return [choice_of([next(scored) for _ in of_question], style) for of_question in options]

    def _streams(
        self, read: ReadPrompts, stop: Sequence[str] | None, sampling: SamplingConfig, vocabulary: VocabularyChoice
    ) -> tuple[list[TextStream], LargeVocabulary | list[PromptEntries] | None]:
        """The stream that takes the tokens of each text, and the candidates."""
        if not isinstance(sampling, SamplingConfig):
            raise InputError(f"sampling must be a SamplingConfig, got {sampling!r}.")
        stop = _stop_strings(stop)
        candidates, entries_N = candidates_of(vocabulary, read, self.tokenizer, self.config.vocab_size, sampling)
        streams = [TextStream(self.tokenizer, end_ids=self.end_ids, stop=stop, entries=one) for one in entries_N]
        return streams, candidates

    def _check_room(self, read: ReadPrompts, max_tokens: int, vocabulary: VocabularyChoice) -> None:
        n_more = max_tokens * longest_token(vocabulary, read)
        self._batches.check_positions(read, int(read.n_positions.argmax()), n_more, "to generate")


def _stop_strings(stop: Sequence[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        raise InputError(f"stop must be a list of strings, got {stop!r}: write [{stop!r}].")
    for place, text in enumerate(stop):
        check_text(text, f"Stop string {place}")
    if "" in stop:
        raise InputError("An empty stop string would end every text before its first character: leave it out.")
    return tuple(stop)


def _seeds(seed: int | Sequence[int], count: int) -> UInt32[np.ndarray, "prompts"]:
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * count
    if len(seeds) != count:
        raise InputError(f"There are {count} prompts and {len(seeds)} seeds: give one for all, or one each.")
    seeds = [whole_number("A seed", one, least=0) for one in seeds]
    if any(one >= 2**32 for one in seeds):
        raise InputError("A seed must be a whole number from 0 to 2³² − 1.")
    return np.array(seeds, np.uint32)


def _generated(read: ReadPrompts, row: int, stream: TextStream, seconds: Sequence[float]) -> GeneratedText:
    return GeneratedText(
        text=stream.text,
        ids=stream.ids,
        n_new=stream.n_new,
        finish=stream.finish,
        prompts=read,
        row=row,
        seconds_to_first=seconds[0],
        seconds=seconds[-1],
    )
