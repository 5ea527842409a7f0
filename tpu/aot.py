"""Compiles programs of full-size models for TPUs without having one, and reports what each needs of a device.

    python -m tpu.aot --json aot.json
    python -m tpu.aot --program prefill --batch 8 --length 2048 --topology v5e:2x4 --mesh 1x8
    python -m tpu.aot --program train-hypernet --topology v5e:4x4
    python -m tpu.aot --program train-task --topology v5e:2x4      an adapter beside XLM-R base, 256 × 128 tokens
    python -m tpu.aot --program train-task --model mistral-7b --topology v5e:2x4      beside Mistral-7B, 16 × 2048
    python -m tpu.aot --program encode --topology v5e:2x4          subwords to embeddings: XLM-R base, 256 × 128
    python -m tpu.aot --program decode-large --topology v5e:2x4     a vocabulary of a million; search: that alone

Needs the extra `aot` (libtpu, the TPU compiler; no TPU, no weights), best in an environment of its own: JAX tries to
start whatever libtpu it finds. Two CPU cores: half a minute per program. By default Mistral-7B in bfloat16, prefill of
8 × 2048 tokens and decoding of 32 sequences with a cache of 4096, for v5e:2x4, v4:2x2x4 and v6e:4x4. Expect 2.0 to 2.5
GiB per device for prefill and 2.8 to 3.8 for decoding, which reads 4.2 GB per step on v5e and 3.1 on the others, and
128 MiB as the largest temporary, a copy of the query kernels (448, of the feed-forward's, in prefill on v6e).

Memory is what the compiler reports. `cost_analysis()` counts the bodies of loops once (a scan over layers as one
layer), so the FLOPs, bytes and collectives reported here come from the compiled program's text, each instruction
counted as often as the loops around it run. Decoding is one step with every slot filled; prompts of a prefill have full
length.
"""

import importlib.util
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dyntok_jax.models import DecoderConfig, EncoderConfig
    from tpu.programs import Program

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # nothing runs on a TPU, even if there is one
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask a cloud what machine this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # nor guess, with warnings; the topology is named later
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock: any number of processes may compile
}
"""Set before JAX is imported."""
TOPOLOGIES = ("v5e:2x4", "v4:2x2x4", "v6e:4x4")
BATCHES = {
    "prefill": 8,
    "decode": 32,
    "train-hypernet": 16,
    "train-task": 256,
    "train-task-lm": 16,
    "encode": 256,
} | dict.fromkeys(("decode-large", "search", "search-exact"), 32)
"""Sequences of each program."""
LENGTHS = {"prefill": 2048, "train-hypernet": 256, "train-task": 128, "train-task-lm": 2048, "encode": 128}
"""Tokens per sequence."""
PROGRAMS = ("prefill", "decode")
"""Compiled by default."""
PIPE_WIDTH = 120
USAGE_ERROR = 2


@dataclass(frozen=True)
class Options:
    """Compiles programs of a full-size model for named TPU topologies.

    Attributes:
      model: mistral-7b (default), llama-3-8b, qwen2.5-7b, qwen3-8b, gemma-3-1b, or the path of a decoder's
        config.json; for train-task also xlm-r-base (its default), or the path of an encoder's; for encode only these.
      program: prefill, decode (default: these two); train-hypernet, a step of distillation into a ZeTT hypernetwork as
        wide as the model; train-task, a step of a LoRA adapter beside an encoder, with a head, or beside a decoder;
        encode, the one program from subwords through merging, hypernetwork and encoder to embeddings; decode-large, a
        step in a large vocabulary through an index of 8-bit rows; its search alone; search-exact, the same without an
        index.
      topology: a chip and its grid, such as v5e:2x4 (default: v5e:2x4, v4:2x2x4 and v6e:4x4).
      mesh: data x model, such as 1x8 (default: as many devices on model as divide the key/value heads; for an encoder
        all on data).
      batch: sequences (default: 8 for prefill, 32 for decode, 16 for train-hypernet; for train-task and encode 256, 16
        of a decoder).
      length: tokens per prompt of the prefill (default: 2048) or per text to train on (256; for train-task 128, 2048 of
        a decoder); in encode, subwords per text (128), three quarters of which are left as tokens.
      predicted: new tokens of a batch in encode that are not in the cache.
      merges: of segments longer than a token may be, one after the other, in encode.
      cache: slots per sequence of the cache in decode.
      rows: of the large vocabulary.
      chunk: tokens of a prompt to read at a time (default: as in DynamicDecoder).
      dtype: of the parameters, and so of the computation.
      json: where to write the figures, as one flat object.
    """

    model: str | None = None
    program: (
        Literal["prefill", "decode", "train-hypernet", "train-task", "encode", "decode-large", "search", "search-exact"]
        | None
    ) = None
    topology: str | None = None
    mesh: str | None = None
    batch: int | None = None
    length: int | None = None
    cache: int = 4096
    predicted: int = 768
    merges: int = 0
    rows: int = 1_000_000
    chunk: int | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    json: Path | None = None


def main(options: Options) -> None:
    """Compiles one program after the other, prints a report of each and a summary of all."""
    os.environ |= ENVIRONMENT

    from dyntok_jax.errors import DyntokError, InputError

    try:
        if importlib.util.find_spec("libtpu") is None:
            raise InputError("libtpu, the TPU compiler, is not installed: pip install 'dyntok_jax[aot]'.")
        check_sizes(options)
        figures = compile_all(options)
    except DyntokError as error:
        print(f"aot.py: error: {error}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def check_sizes(options: Options) -> None:
    """Raises InputError for a size below 1."""
    from dyntok_jax.errors import InputError

    for name in ("batch", "length", "cache", "chunk", "rows", "predicted", "merges"):
        size, least = getattr(options, name), 0 if name == "merges" else 1
        if size is not None and size < least:
            raise InputError(f"--{name} is {size}: it must be at least {least}.")


def compile_all(options: Options) -> dict[str, float | str]:
    """The figures of all programs and topologies requested, printed as they come."""
    from rich.console import Console

    from dyntok_jax.models import DecoderConfig, EncoderConfig
    from dyntok_jax.sharding import make_mesh
    from tpu.chips import topology_devices
    from tpu.compiled import compile_program
    from tpu.programs import check_mesh, default_mesh, find_config
    from tpu.tables import figures_of, print_details, summary

    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    is_task, is_encode = options.program == "train-task", options.program == "encode"
    model_name = options.model or ("xlm-r-base" if is_task or is_encode else "mistral-7b")
    kinds = (DecoderConfig, EncoderConfig) if is_task else (EncoderConfig,) if is_encode else (DecoderConfig,)
    config = find_config(model_name, kinds)
    rows, figures = [], {}
    for topology in (options.topology,) if options.topology else TOPOLOGIES:
        devices = topology_devices(topology)
        data, model = parse_mesh(options.mesh) if options.mesh else default_mesh(config, len(devices))
        for name in (options.program,) if options.program else PROGRAMS:
            name = "train-task-lm" if is_task and isinstance(config, DecoderConfig) else name
            check_mesh(config, options.batch or BATCHES[name], data, model, len(devices))
            mesh = make_mesh(data, model, devices)
            compiled = compile_program(program_of(options, name, config, mesh), mesh)
            rows.append((f"{topology} as {data}x{model}", compiled))
            print_details(console, *rows[-1])
            figures |= figures_of(f"{name}_{topology}_as_{data}x{model}", compiled)
    console.print(summary(rows), f"{model_name}, {options.dtype}; figures per device", sep="")
    return figures


def parse_mesh(text: str) -> tuple[int, int]:
    """Data × model from `1x8`.

    Raises:
      InputError: it is something else.
    """
    from dyntok_jax.errors import InputError

    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise InputError(f"A mesh must be devices on data x devices on model, such as 1x8, got {text!r}.")
    return int(found[1]), int(found[2])


def program_of(options: Options, name: str, config: "DecoderConfig | EncoderConfig", mesh: "Mesh") -> "Program":
    """The program of that name with the requested sizes."""
    import jax.numpy as jnp

    from dyntok_jax.decoding import CHUNK, PREFILL_CHUNK
    from dyntok_jax.models import EncoderConfig
    from tpu.encode_program import encode_program
    from tpu.large_program import exact_program, large_decode_program, search_program
    from tpu.programs import decode_program, prefill_program
    from tpu.task_program import lm_program, task_program
    from tpu.train_program import train_program

    n_batch, dtype = options.batch or BATCHES[name], jnp.dtype(options.dtype)
    sizes = {"n_batch": n_batch, "capacity": options.cache, "size": CHUNK}
    if isinstance(config, EncoderConfig):
        of_texts = {"n_batch": n_batch, "length": options.length or LENGTHS[name]}
        if name == "train-task":
            return task_program(config, mesh, dtype, **of_texts)
        return encode_program(config, mesh, dtype, **of_texts, n_predicted=options.predicted, n_merges=options.merges)
    if name == "decode":
        return decode_program(config, mesh, dtype, **sizes)
    if name == "decode-large":
        return large_decode_program(config, mesh, dtype, **sizes, n_rows=options.rows)
    if name == "search":
        return search_program(config, mesh, dtype, n_batch=n_batch, n_rows=options.rows)
    if name == "search-exact":
        return exact_program(config, mesh, dtype, n_batch=n_batch, n_rows=options.rows)
    length = options.length or LENGTHS[name]
    if name == "train-hypernet":
        return train_program(config, mesh, dtype, n_batch=n_batch, length=length)
    if name == "train-task-lm":
        return lm_program(config, mesh, dtype, n_batch=n_batch, length=length)
    chunk = options.chunk or PREFILL_CHUNK
    return prefill_program(config, mesh, dtype, n_batch=n_batch, length=length, chunk=chunk)


if __name__ == "__main__":
    main(tyro.cli(Options))
