"""Conversion of model folders between Hugging Face's format and orbax's, and of GGUF files. Exact, unless cast."""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyntok_jax.convert import (
    BERT_EXTRAS,
    BERT_HEAD_NAMES,
    DTYPES,
    HYPERNET_EXTRAS,
    INDEX,
    Checkpoint,
    load_decoder,
    load_encoder,
    load_hypernet,
    load_masked_lm_head,
    open_checkpoint,
    plain_name,
    read_config,
    save_decoder,
    save_encoder,
    save_hypernet,
)
from dyntok_jax.convert.offline import is_gguf, write_gguf
from dyntok_jax.embedding import Hypernet, HypernetConfig
from dyntok_jax.errors import CheckpointError
from dyntok_jax.files.folders import new_folder
from dyntok_jax.files.hub import PACKAGED_MODELS, PICKLE_SUFFIXES, find_model
from dyntok_jax.files.orbax_checkpoint import (
    CHECKSUMS,
    fill_checkpoint,
    is_checkpoint,
    load_checkpoint,
    read_shapes,
)
from dyntok_jax.files.unpacked import MANIFEST
from dyntok_jax.models import MODEL_TYPES as DECODER_TYPES, Decoder, DecoderConfig, Encoder, EncoderConfig, MaskedLmHead
from dyntok_jax.storage import check_not_lfs_pointer

HYPERNET_TYPE = "zett_hypernetwork"
HEAD = "head"
"""Subfolder of an encoder's orbax folder for its masked-LM head."""
COMPANION_SUFFIXES = {".json", ".txt", ".model", ".jinja"}
"""Suffixes of files to copy: tokenizers, chat templates, and the files of sentence-transformers. Its folders, such as
`1_Pooling`, are copied too."""


def convert_folder(source: str, target: str, *, dtype: str | None = None, overwrite: bool = False) -> list[str]:
    """Converts a checkpoint to the other format.

    Args:
      source: a folder of either format, the name of a model (in Hugging Face's format), or a GGUF file, which becomes a
        folder in Hugging Face's format.
      target: the folder to create.
      dtype: name of the dtype to cast to; None keeps the stored dtype, or for a GGUF file means float32.
      overwrite: replace `target` if it is a model folder.

    Returns:
      What was done, in sentences.

    Raises:
      ModelNotFoundError, ConfigError, CheckpointError: the source cannot be read, or the target not written.

    >>> convert_folder(str(decoder_folder), str(folder / "orbax"))
    ['Written: ... (orbax format)']
    >>> sorted(path.name for path in (folder / "orbax").iterdir() if path.is_dir())
    ['parameters']
    """
    if is_gguf(source):
        with new_folder(target, overwrite=overwrite) as part:
            write_gguf(source, part, dtype=jnp.dtype(dtype or "float32"))
        return [f"Written: {target} (Hugging Face format)"]
    is_orbax = Path(source).is_dir() and is_checkpoint(source)
    # only config and weights are needed here; a tokenizer is copied if there is one
    folder = Path(source) if is_orbax else find_model(source, "model" if source in PACKAGED_MODELS else "hypernetwork")
    if Path(target).resolve() in (folder.resolve(), *folder.resolve().parents):
        raise CheckpointError(f"{target} is the source or contains it: choose another name.")
    with new_folder(target, overwrite=overwrite) as part:
        left_out = _to_hugging_face(folder, part, dtype) if is_orbax else _to_orbax(folder, part, dtype)
        for path in sorted(folder.iterdir()):
            is_companion = path.suffix in COMPANION_SUFFIXES and path.name not in (
                "config.json",
                CHECKSUMS,
                INDEX,
                MANIFEST,
            )
            if is_companion and path.is_file():
                check_not_lfs_pointer(path, CheckpointError)
                shutil.copyfile(path, part / path.name)
            if re.fullmatch(r"\d+_(Pooling|Dense|Normalize)", path.name) and path.is_dir():
                shutil.copytree(
                    path, part / path.name, ignore=shutil.ignore_patterns(*(f"*{one}" for one in PICKLE_SUFFIXES))
                )
    said = [f"Written: {target} ({'Hugging Face' if is_orbax else 'orbax'} format)"]
    if left_out:
        said.append(f"Left out, because dyntok_jax does not use them: {', '.join(left_out)}")
    return said


def _to_orbax(folder: Path, part: Path, dtype: str | None) -> list[str]:
    """Writes the parameters and config; returns the names of tensors that were left out."""
    config, checkpoint = read_config(folder), open_checkpoint(folder)
    kept = _kept_dtype(checkpoint.dtypes.values()) if dtype is None else jnp.dtype(dtype)
    if config.get("model_type") == HYPERNET_TYPE:
        _, hypernet = load_hypernet(folder, dtype=kept)
        fill_checkpoint(part, _with_dtype(config, kept), hypernet)
        return _matching(checkpoint, HYPERNET_EXTRAS[1:])
    if config.get("model_type") in DECODER_TYPES:
        _, decoder = load_decoder(folder, dtype=kept)
        fill_checkpoint(part, _with_dtype(config, kept), decoder)
        return []
    _, encoder = load_encoder(folder, dtype=kept)
    fill_checkpoint(part, _with_dtype(config, kept), encoder)
    if _matching(checkpoint, BERT_HEAD_NAMES):
        (part / HEAD).mkdir()
        fill_checkpoint(part / HEAD, config, load_masked_lm_head(folder, dtype=kept))
    return _matching(checkpoint, BERT_EXTRAS[1:])


def _to_hugging_face(folder: Path, part: Path, dtype: str | None) -> list[str]:
    config = read_config(folder)
    kept = _kept_dtype([leaf.dtype for leaf in read_shapes(folder).values()]) if dtype is None else jnp.dtype(dtype)
    if config.get("model_type") == HYPERNET_TYPE:
        shape = HypernetConfig.from_hf(config)
        save_hypernet(part, shape, load_checkpoint(folder, _abstract(Hypernet, shape, kept)))
    elif config.get("model_type") in DECODER_TYPES:
        shape = DecoderConfig.from_hf(config)
        save_decoder(part, shape, load_checkpoint(folder, _abstract(Decoder, shape, kept)))
    else:
        shape, head = EncoderConfig.from_hf(config), None
        if is_checkpoint(folder / HEAD):
            head = load_checkpoint(folder / HEAD, _abstract(MaskedLmHead, shape, kept))
        save_encoder(part, shape, load_checkpoint(folder, _abstract(Encoder, shape, kept)), head)
    # keep fields of the published config that ours does not have
    written = _with_dtype(config | read_config(part), kept)
    text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (part / "config.json").write_text(text, encoding="utf-8")
    return []


def _abstract(module: Any, config: Any, dtype: np.dtype) -> Any:
    return jax.eval_shape(partial(module, config, dtype=dtype), jax.random.key(0))


def _kept_dtype(dtypes: Iterable[Any]) -> np.dtype:
    """The dtype that all tensors share; if they differ, float32, which represents each exactly."""
    names = {DTYPES.get(dtype, dtype) for dtype in dtypes}
    return names.pop() if len(names) == 1 else np.dtype(np.float32)


def _with_dtype(config: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """The config with this dtype in the fields that name one, in new or old spelling."""
    return config | {name: dtype.name for name in ("dtype", "torch_dtype") if name in config}


def _matching(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    return [name for name in checkpoint.files if any(re.fullmatch(pattern, plain_name(name)) for pattern in patterns)]
