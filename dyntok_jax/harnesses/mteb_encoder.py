"""`DynamicEncoder` as a model of mteb: its texts merged or static, with the prompts of each kind of task."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args

import jax
import numpy as np
from jaxtyping import Float32
from mteb.abstasks.task_metadata import TaskMetadata, TaskType
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from tqdm import tqdm

import dyntok_jax
from dyntok_jax.encoding import DynamicEncoder
from dyntok_jax.errors import InputError
from dyntok_jax.options import FULL, Merging

TASK_TYPES: tuple[str, ...] = get_args(TaskType)
SIDES = tuple(side.value for side in PromptType)
"""Of what a prompt is put before: a query or a document."""
OTHER_NAMES = {"passage": "document"}
"""What models' folders also call them."""
BATCH_SIZE = 32


class MtebEncoder(AbsEncoder):
    """An encoder for `mteb.evaluate`.

    A prompt is looked for by type of task and side (`Retrieval-query`), by type of task (`STS`), then by side (`query`,
    `document`); where there is none, texts get the prefix that the model expects. Texts that are too long after merging
    are cut, as mteb's other models do.

    Attributes:
      model: the encoder.
      merging: how texts are merged, or static.
      model_prompts: what goes before texts, by those names.
      language: code of the texts' language, for a multilingual hypernetwork; None for none.
      mteb_model_meta: what mteb files results under: the name, the version of this package, and how texts are merged.

    >>> wrapped = MtebEncoder(encoder, "tiny", prompts={"STS": "query: ", "document": "passage: "})
    >>> wrapped.mteb_model_meta.model_name_with_experiment
    "dyntok/tiny (merging=Share(percent=100)-pretoken, prompts=STS_ 'query_ ', document_ 'passage_ ')"
    """

    mteb_model_meta: ModelMeta | None

    def __init__(
        self,
        encoder: DynamicEncoder,
        name: str,
        *,
        merging: Merging | None = None,
        prompts: Mapping[str, str] | None = None,
        language: str | None = None,
    ):
        """Wraps an encoder.

        Args:
          encoder: the model, loaded.
          name: under which mteb keeps its results; give models and hypernetworks that differ different ones.
          merging: how texts are merged; None for full merging, `STATIC` for none.
          prompts: what goes before texts, by type of task (`STS`, `Retrieval`), by side (`query`, `document`), or by
            both (`Retrieval-query`); None for those that the model's folder declares by such names.
          language: code of the texts' language, for a multilingual hypernetwork.

        Raises:
          InputError: the name is empty, or a prompt is for no type of task that mteb has.
        """
        if not name:
            raise InputError("name is empty: give one, mteb keeps results under it.")
        self.model, self.language = encoder, language
        self.merging = Merging(FULL) if merging is None else merging
        if prompts is None:
            declared = {OTHER_NAMES.get(key, key): text for key, text in encoder.sentence.prompts.items()}
            self.model_prompts = {key: text for key, text in declared.items() if _is_known(key)}
        else:
            if unknown := [key for key in prompts if not _is_known(key)]:
                raise InputError(
                    f"mteb has no type of task {unknown[0]!r}: prompts are by type (STS, Retrieval, …), "
                    f"by side ({', '.join(SIDES)}), or by both (Retrieval-query)."
                )
            self.model_prompts = dict(prompts)
        self._n_subwords = self._n_tokens = 0
        how = {"merging": _name_of(self.merging)}
        how |= {"prompts": ", ".join(f"{key}: {text!r}" for key, text in prompts.items())} if prompts else {}
        how |= {} if language is None else {"language": language}
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"dyntok/{name}",
                "revision": dyntok_jax.__version__,
                "n_parameters": sum(leaf.size for leaf in jax.tree.leaves(encoder.encoder)),
                "max_tokens": encoder.max_tokens,
                "embed_dim": encoder.sentence.head.width(encoder.config.width),
                "framework": ["JAX"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": bool(self.model_prompts),
                "experiment_kwargs": how,
            }
        )

    @property
    def reduction_percent(self) -> float | None:
        """The tokens saved so far, of the subwords that the model was given; None before the first text."""
        return 100 * (1 - self._n_tokens / self._n_subwords) if self._n_subwords else None

    def prefix(self, task_metadata: TaskMetadata, prompt_type: PromptType | None = None) -> str:
        """What goes before the texts of a task.

        Args:
          task_metadata: of the task.
          prompt_type: whether they are queries or documents; None where the task has no sides.
        """
        prompt = get_prompt(self.model_prompts, task_metadata, prompt_type)
        return self.model.prefix if prompt is None else prompt

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: TaskMetadata,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Float32[np.ndarray, "N D"]:
        """Embeds the texts of a task.

        Args:
          inputs: batches with the field `text`.
          task_metadata: of the task.
          hf_split: its split, which changes nothing.
          hf_subset: its subset, which changes nothing.
          prompt_type: whether they are queries or documents.
          **kwargs: `batch_size`, `show_progress_bar`; a `precision` other than `float32` is refused.

        Raises:
          InputError: the inputs are not texts, or an option is unknown.
          NotANumberError: the model or the hypernetwork computes NaN or infinity.
        """
        del hf_split, hf_subset
        batch_size, shows = kwargs.pop("batch_size", BATCH_SIZE), kwargs.pop("show_progress_bar", False)
        if kwargs.get("precision") in (None, "float32"):
            kwargs.pop("precision", None)
        if kwargs:
            given = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
            raise InputError(f"The encoder has no option {given}: it takes batch_size and show_progress_bar.")
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InputError(f"The task {task_metadata.name} has {', '.join(batch)}: only texts can be encoded.")
            texts += batch["text"]
        with tqdm(total=len(texts), disable=not shows, desc="Encoding") as bar:
            encoded = self.model.encode(
                texts,
                merging=self.merging,
                language=self.language,
                prefix=self.prefix(task_metadata, prompt_type),
                batch_size=batch_size,
                truncate=True,
                on_progress=bar.update,
            )
        tokens = encoded.tokens
        is_counted_M = tokens.subwords.is_counted_N[tokens.start_M]
        self._n_tokens += int(is_counted_M.sum())
        self._n_subwords += int(tokens.length_M[is_counted_M].sum())  # of texts that were cut, what is left
        assert encoded.embeddings_ND is not None, "pooling is not `none`"
        return encoded.embeddings_ND


def _is_known(key: str) -> bool:
    """Whether a prompt's name is that of a type of task, of a side, or of both."""
    kind, _, side = key.rpartition("-")
    return key in (*TASK_TYPES, *SIDES) or (kind in TASK_TYPES and side in SIDES)


def _name_of(merging: Merging) -> str:
    """How texts are merged, so that other results get another name."""
    if merging.is_static:
        return "static"
    listed, plain = merging.merge_list, Merging(FULL)
    parts = [merging.goal if listed is None else f"merge list {_digest(listed.pairs)}", merging.boundary]
    parts += [
        f"{field.name}={getattr(merging, field.name)}"
        for field in fields(merging)
        if field.name not in ("goal", "boundary", "merge_list")
        and getattr(merging, field.name) != getattr(plain, field.name)
    ]
    return "-".join(map(str, parts))


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
