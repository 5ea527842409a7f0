"""How much memory a decoder takes on its way in and out, measured in a process of its own (Linux).

    python -m tests.support.memory_probe FOLDER                 2 GB; on two CPU cores a minute
    python -m tests.support.memory_probe FOLDER LAYERS SHRINK   so many layers, all widths divided

Writes a random three-shard Llama into FOLDER, then measures, as a share of the parameters' bytes, how far resident
memory (mapped pages of files included) rises in each of four steps: loading, exporting, and `dyntok convert` to orbax
and back. A tiny model goes through them first, so that what the compiler and the libraries take once is not counted;
what a step leaves behind is counted in the next. Prints one JSON object.

Expect load 1.01, export 1.07, to_orbax 1.02, from_orbax 1.19 where MALLOC_MMAP_THRESHOLD_=262144 has freed memory given
back at once; up to 0.1 more where it has not.
"""

import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from dyntok_jax.convert import load_decoder, save_decoder
from dyntok_jax.files import convert_folder

WIDTH, FFN_WIDTH, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 16, 4, 32_000


def write_llama(folder: Path, layers: int, shrink: int) -> int:
    """Writes a random float32 checkpoint in three shards; returns the bytes of its parameters."""
    width, ffn, vocabulary = WIDTH // shrink, FFN_WIDTH // shrink, VOCABULARY // shrink
    kv_width = width * KV_HEADS // HEADS
    shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for i in range(layers):
        prefix = f"model.layers.{i}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (width,),
            f"{prefix}self_attn.q_proj.weight": (width, width),
            f"{prefix}self_attn.k_proj.weight": (kv_width, width),
            f"{prefix}self_attn.v_proj.weight": (kv_width, width),
            f"{prefix}self_attn.o_proj.weight": (width, width),
            f"{prefix}post_attention_layernorm.weight": (width,),
            f"{prefix}mlp.gate_proj.weight": (ffn, width),
            f"{prefix}mlp.up_proj.weight": (ffn, width),
            f"{prefix}mlp.down_proj.weight": (width, ffn),
        }
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}
    folder.mkdir(parents=True)
    rng, weight_map = np.random.default_rng(0), {}
    for shard, names in enumerate(np.array_split(list(shapes), 3), start=1):
        file = f"model-{shard:05}-of-00003.safetensors"
        save_file({str(name): rng.standard_normal(shapes[name], np.float32) for name in names}, folder / file)
        weight_map |= {str(name): file for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return 4 * sum(int(np.prod(shape)) for shape in shapes.values())


def memory(key: str) -> int:
    """A line of the process's status in bytes: VmRSS is what is resident now, VmHWM the most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def peak(step: Callable[[], object]) -> int:
    """Runs a step and returns the most that was resident meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return memory("VmHWM")


def measure(folder: Path, layers: int, shrink: int) -> dict[str, float]:
    """The shares of one model, whose files are removed again."""
    n_bytes = write_llama(folder / "hf", layers, shrink)
    shares: dict[str, float] = {}
    loaded: list = []
    before = memory("VmRSS")
    steps = {
        "load": lambda: loaded.append(jax.block_until_ready(load_decoder(folder / "hf"))),
        "export": lambda: save_decoder(folder / "export", *loaded.pop()),
        "to_orbax": lambda: convert_folder(str(folder / "hf"), str(folder / "orbax")),
        "from_orbax": lambda: convert_folder(str(folder / "orbax"), str(folder / "back")),
    }
    for name, step in steps.items():
        gc.collect()
        shares[name] = round((peak(step) - before) / n_bytes, 3)
    shutil.rmtree(folder)
    return shares | {"gigabytes": round(n_bytes / 1e9, 3)}


if __name__ == "__main__":
    target, (layers, shrink) = Path(sys.argv[1]), map(int, sys.argv[2:] or (8, 1))
    measure(target / "warm", layers, 16)
    print(json.dumps(measure(target / "model", layers, shrink)))
