"""`dyntok train-hypernet`: trains a hypernetwork for a model on text, and leaves a folder for `--hypernet`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from dyntok_jax.cli.shared import (
    DEFAULT_BOUNDARY,
    Model,
    OptionalPath,
    arg,
    named_file,
    read_options,
)
from dyntok_jax.errors import InputError
from dyntok_jax.options import (
    DEFAULT_MODEL,
    Boundary,
)

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dyntok_jax.text import ByteLevelTokenizer
    from dyntok_jax.training import FrozenModel, Job, Objectives, Outcome, RunConfig, Validate
    from dyntok_jax.training.data import DataConfig

Files = Annotated[tuple[str, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="")]
N = Annotated[int, arg(metavar="N")]
Number = Annotated[float, arg(metavar="NUMBER")]
Dtype = Literal["float32", "bfloat16"]
MASK_PROBABILITY = 0.15
FOR_ENCODERS, FOR_DECODERS = ("sentences=1", "hidden=1"), ("hidden=1", "next_subword=1")


@dataclass(frozen=True)
class TrainHypernet:
    """Trains a hypernetwork on text, by distilling the model's reading of its own subwords.

    Attributes:
      text: UTF-8 text, one paragraph a line (.gz too), as FILE or CODE=FILE; without a code the file's name may say
        the language (de.txt.gz).
      words: lists of words for pseudo-texts in languages with little text, as CODE=FILE (a word a line, a tab, its
        weight) or CODE=wordfreq:CODE.
      words_share: what part of a language's samples are pseudo-texts where it has texts, too: a number for all, CODE=
        and a number for one (default: 0.5).
      output: folder for checkpoints, metrics.jsonl and the result, hypernet/.
      config: TOML file with the same options by their names, such as text = ["de.txt"] or learning_rate = 1e-4;
        options given here win.
      model: a folder, a Hugging Face Hub id, or a packaged model.
      validation: held-out text, one text a line, as FILE or CODE=FILE; or aligned JSON lines (.jsonl) with a field a
        language.
      validation_texts: the most texts a file or language of it.
      held_out: without --validation, paragraphs of each language that are kept out of training to validate on; 0: no
        validation.
      steps: how many.
      batch_size: texts a batch.
      accumulate: batches a step.
      learning_rate: at its peak.
      warmup: steps to get there.
      weight_decay: of kernels.
      clip: norm that gradients are clipped to.
      objectives: NAME or NAME=WEIGHT of pieces, sentences, hidden, next_subword, language_model (default: sentences
        hidden for encoders, hidden next_subword for decoders).
      pieces_per_batch: vocabulary pieces a batch, for the objective pieces.
      pieces: decompose writes them as shorter pieces, identity as themselves (ZeTT's auxiliary loss).
      identity_steps: steps at first with nothing but identities (ZeTT's warm-up, there 10000).
      layers: of the hypernetwork.
      hidden: its width.
      ffn: its feed-forward width.
      heads: its attention heads.
      plain: ZeTT's network as it is, without the mean of the subwords (FVT) to start from.
      start_from: folder or Hub id of a trained hypernetwork to go on from; it brings its own shape.
      max_subwords: the longest token, in subwords.
      max_length: the longest text, in subwords; longer ones are cut in several.
      boundary: what merging may not cross.
      share: how each batch's share of the maximum reduction is drawn.
      share_mean: in percent, of gaussian; or the one share of fixed.
      share_spread: in percent, the standard deviation of gaussian.
      full_probability: how often it is exactly 100 %.
      language_exponent: languages are drawn in proportion to their texts to this power.
      language_weights: some of them so many times as often, as CODE=NUMBER.
      prefix: put before each text (default: what the model expects).
      seed: of parameters and data.
      validate_every: steps between validations.
      checkpoint_every: steps between checkpoints.
      keep: how many of the last checkpoints stay, beside the best.
      patience: validations without a better one that end the run; 0: never.
      compute_dtype: of the computation; parameters stay float32.
      export_dtype: of the result.
      mesh: devices that share the batches × devices that share the parameters, such as 4x2.
      resume: go on from the last checkpoint in the output folder, if there is one.
    """

    EXAMPLES: ClassVar[str] = """\
  dyntok train-hypernet --text de.txt fr.txt.gz --output run        e5-small; result in run/hypernet
  dyntok train-hypernet --text en=wiki.txt --output run --steps 4000 --validation aligned.jsonl
  dyntok train-hypernet --config run.toml --resume                  options from a file; go on after a kill
  dyntok encode reviews.txt --hypernet run/hypernet                 and so the result is used
"""

    output: Annotated[str, arg(metavar="FOLDER")] = tyro.MISSING
    text: Files = ()
    words: Files = ()
    words_share: Annotated[tuple[str, ...], arg(metavar="[CODE=]SHARE ...", help_behavior_hint="")] = ()
    config: OptionalPath = None
    model: Model = DEFAULT_MODEL
    validation: Files = ()
    validation_texts: N = 240
    held_out: N = 32
    steps: N = 2000
    batch_size: N = 24
    accumulate: N = 1
    learning_rate: Number = 5e-4
    warmup: N = 50
    weight_decay: Number = 0.01
    clip: Number = 1.0
    objectives: Annotated[tuple[str, ...], arg(metavar="NAME[=WEIGHT] ...", help_behavior_hint="")] = ()
    pieces_per_batch: N = 128
    pieces: Literal["decompose", "identity"] = "decompose"
    identity_steps: N = 0
    layers: N = 2
    hidden: N = 384
    ffn: N = 1536
    heads: N = 6
    plain: bool = False
    start_from: OptionalPath = None
    max_subwords: N = 7
    max_length: N = 96
    boundary: Boundary = DEFAULT_BOUNDARY
    share: Literal["uniform", "gaussian", "fixed"] = "uniform"
    share_mean: Number = 50.0
    share_spread: Number = 25.0
    full_probability: Number = 0.25
    language_exponent: Number = 0.3
    language_weights: Annotated[tuple[str, ...], arg(metavar="CODE=NUMBER ...", help_behavior_hint="")] = ()
    prefix: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    seed: N = 0
    validate_every: N = 200
    checkpoint_every: N = 50
    keep: N = 2
    patience: N = 0
    compute_dtype: Dtype = "float32"
    export_dtype: Dtype = "float32"
    mesh: Annotated[str | None, arg(metavar="DATAxMODEL", help_behavior_hint="")] = None
    resume: bool = False

    def run(self) -> None:
        """Loads, trains, prints."""
        with_pieces_alone = self.objectives and not _weights(self.objectives).needs_texts
        if not (self.text or self.words or with_pieces_alone):
            raise InputError("There is nothing to train on: give text files (--text FILE ...).")

        from dyntok_jax.cli.shared import keep_compiled_programs, mesh_shape, print_out, training_view
        from dyntok_jax.sharding import make_mesh
        from dyntok_jax.training import train

        keep_compiled_programs()
        shape = mesh_shape(self.mesh)
        mesh = None if shape is None else make_mesh(*shape)
        job, run = self._job(mesh), self._run_config()
        with training_view(run.steps) as report:
            outcome = train(job, run, Path(self.output), resume=self.resume, mesh=mesh, report=report)
        print_out(*_told(outcome))

    @classmethod
    def defaults(cls, arguments: Sequence[str]) -> "TrainHypernet":
        """The options of the file that `--config` names, which those on the command line override.

        Raises:
          InputError: the file cannot be read, or holds something else than these options.
        """
        path = named_file(arguments, "--config")
        return cls() if path is None else cls(config=path, **read_options(path, cls, but=("config",)))

    def _job(self, mesh: "Mesh | None") -> "Job":
        """Everything that `train` takes, loaded."""
        from dyntok_jax.embedding import languages_of
        from dyntok_jax.models import Decoder
        from dyntok_jax.training import (
            Job,
            NetworkConfig,
            OptimizerConfig,
            check_max_length,
            fresh_hypernet,
            given_hypernet,
            load_frozen,
        )
        from dyntok_jax.training.data import training_batches

        wanted = _weights(self.objectives) if self.objectives else None
        with_head = wanted is not None and wanted.language_model > 0
        frozen, tokenizer = load_frozen(self.model, dtype=self.compute_dtype, mesh=mesh, with_head=with_head)
        check_max_length(self.max_length, frozen)
        weights = wanted or _weights(FOR_DECODERS if isinstance(frozen.body, Decoder) else FOR_ENCODERS)
        if self.start_from is None:
            names = {field.name for field in fields(NetworkConfig)}
            shape = {name: value for name, value in vars(self).items() if name in names}
            network = NetworkConfig(**shape, residual=not self.plain, predict_bias=frozen.head is not None)
            hypernet = fresh_hypernet(network, frozen, tokenizer, self.seed)
        else:
            hypernet = given_hypernet(self.start_from, frozen, tokenizer)
        languages = languages_of(hypernet.config.n_langs, hypernet.config.langs)
        data = self._data(weights, hypernet.config.max_subwords)
        batches = training_batches(data, tokenizer, languages)
        validate, validates_on = self._validate(frozen, weights, data, tokenizer, languages)
        return Job(
            hypernet=hypernet,
            frozen=frozen,
            batches=batches,
            weights=weights,
            optimizer=OptimizerConfig(
                learning_rate=self.learning_rate,
                warmup_steps=self.warmup,
                weight_decay=self.weight_decay,
                clip=self.clip,
                accumulate=self.accumulate,
            ),
            validate=validate,
            config={"model": self.model, "start_from": self.start_from, "seed": self.seed}
            # of texts and words it is their contents that count, which the batches compare
            | {"data": _without(asdict(data), "threads", "prefetch", "texts", "words")}
            | {"contents of the validation": validates_on},
        )

    def _data(self, weights: "Objectives", max_subwords: int) -> "DataConfig":
        from dyntok_jax.encoding import default_prompt
        from dyntok_jax.files import find_model
        from dyntok_jax.training.data import DataConfig, by_language, numbers_by_language

        if self.identity_steps and not weights.pieces:
            raise InputError("--identity-steps trains on vocabulary pieces alone: add the objective pieces.")
        texts = by_language(self.text) if weights.needs_texts else {}
        words = by_language(self.words) if weights.needs_texts else {}
        return DataConfig(
            texts=texts,
            words=words,
            words_share=numbers_by_language("--words-share", self.words_share, words),
            batch_size=self.batch_size,
            max_length=self.max_length,
            max_subwords=max_subwords,
            boundary=self.boundary,
            share=self.share,
            share_mean=self.share_mean,
            share_spread=self.share_spread,
            full_probability=self.full_probability,
            language_exponent=self.language_exponent,
            language_weights=numbers_by_language("--language-weights", self.language_weights, {**texts, **words}),
            prefix=default_prompt(find_model(self.model)) if self.prefix is None else self.prefix,
            mask_probability=MASK_PROBABILITY if weights.language_model else 0.0,
            seed=self.seed,
            pieces_per_batch=self.pieces_per_batch if weights.pieces else 0,
            pieces=self.pieces,
            identity_batches=self.identity_steps * self.accumulate,
            held_out=0 if self.validation else self.held_out,
        )

    def _validate(
        self,
        frozen: "FrozenModel",
        weights: "Objectives",
        data: "DataConfig",
        tokenizer: "ByteLevelTokenizer",
        languages: Sequence[str],
    ) -> "tuple[Validate | None, str]":
        """What validates, on the files given or on what is held out of the texts; and a digest of that."""
        from dyntok_jax.text import TextEncoder
        from dyntok_jax.training import validator
        from dyntok_jax.training.data import batches_held_out, batches_of_files, digest_of, with_pieces

        encoder, translations = TextEncoder(tokenizer), []
        if self.validation:
            batches, translations = batches_of_files(
                self.validation, data, encoder, limit=self.validation_texts, languages=languages
            )
        elif self.held_out and data.texts:
            batches = batches_held_out(data, encoder, languages)
        else:
            return None, ""
        whole = with_pieces(batches, data, tokenizer, languages)
        return validator(frozen, weights, whole, translations), digest_of(whole)

    def _run_config(self) -> "RunConfig":
        from dyntok_jax.training import RunConfig

        names = {field.name for field in fields(RunConfig)}
        return RunConfig(**{name: value for name, value in vars(self).items() if name in names})


def _weights(objectives: Sequence[str]) -> "Objectives":
    """`NAME` or `NAME=WEIGHT`, several, as the weights of all.

    Raises:
      InputError: an unknown name, or a weight that is no number above 0.
    """
    from dyntok_jax.training import Objectives

    known = [field.name for field in fields(Objectives)]
    weights = {}
    for objective in objectives:
        name, _, weight = objective.partition("=")
        if name not in known:
            raise InputError(f"There is no objective {name!r}: choose of {', '.join(known)}.")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise InputError(f"The weight of {name} is {weight!r}, which is no number.") from None
        if not 0 < weights[name] < float("inf"):
            raise InputError(f"The weight of {name} is {weight}: give a positive number.")
    return Objectives(**weights)


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _told(outcome: "Outcome") -> list[str]:
    end = "no better validation for long" if outcome.stopped_early else "all steps done"
    best = "" if outcome.best_loss is None else f", validation loss {outcome.best_loss:.4f}"
    return [
        f"Stopped at step {outcome.step}: {end}.",
        f"Written: {outcome.hypernet} (step {outcome.best_step}{best}). "
        f"Use it with `--hypernet {outcome.hypernet}` of `dyntok encode` or, for a decoder, "
        "`dyntok generate --share 100`.",
    ]
