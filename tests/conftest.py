"""Every test runs on 8 simulated devices, with strict dtype promotion and rank promotion an error.

Most of a run's time would go into XLA, so programs are compiled with few optimizations, in a quarter of the time: no
fusion emitters, and LLVM's optimizations for the packaged models alone, which run long enough to be worth it. What a
test starts as a process of its own compiles as users do.

Markers that no test needs to write: `parity` for all in `tests/parity`; `packaged` for what asks for a packaged model,
and `slow` for the same, because the models must be there first.
"""

import gc
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import pytest
from hypothesis import settings
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, models, normalizers

from dyntok_jax.files import find_model

if TYPE_CHECKING:  # modules imported here, before the tests are, would escape the checks of shapes
    from dyntok_jax.text import ByteLevelTokenizer, TextEncoder

with pytest.MonkeyPatch.context() as patch:  # XLA reads its flags once, and processes that tests start shall not
    patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.jit(lambda: 0).lower().compile()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# commands keep compiled programs; in one process with all tests, writing those of 8 devices can crash XLA
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_disable_most_optimizations", True)
settings.register_profile("untimed", deadline=None)  # nothing here says how long an example takes on a busy machine
settings.load_profile("untimed")
PARITY = Path(__file__).parent / "parity"
PACKAGED = {"e5_small_folder", "smollm2_folder", "gemma_file"}
"""Fixtures that build a packaged model."""
MAPS, MOST_MAPS = Path("/proc/self/maps"), 20_000
"""Regions of memory; Linux allows 65,530 by default, and each compiled program takes some."""


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is known by its place or by its fixtures."""
    for item in items:
        if item.path.is_relative_to(PARITY):
            item.add_marker("parity")
        if PACKAGED & set(getattr(item, "fixturenames", ())):
            item.add_marker("packaged")
        if item.get_closest_marker("packaged"):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _optimized_where_it_pays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Packaged models are compiled as users compile them."""
    is_packaged = request.node.get_closest_marker("packaged") is not None
    jax.config.update("jax_disable_most_optimizations", not is_packaged)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Frees compiled programs before they are too many: a process may map only so many regions, and then XLA aborts."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def e5_small_folder() -> Path:
    """The offline encoder as a Hugging Face folder, built once into the user's cache."""
    return find_model("e5-small")


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The offline decoder as a Hugging Face folder, built once into the user's cache."""
    return find_model("smollm2")


@pytest.fixture(scope="session")
def gemma_file() -> Path:
    """Gemma 3 270M (Gemma's terms: to use, not to ship) as a GGUF file, fetched once into the user's cache."""
    from tests.support.gemma_file import gemma_gguf

    return gemma_gguf()


@pytest.fixture(scope="session")
def tokenizer() -> "ByteLevelTokenizer":
    """The byte-level form of the tiny Unigram tokenizer, where a module has no other."""
    from dyntok_jax.text import ByteLevelTokenizer
    from tests.support.tiny import tiny_tokenizer

    return ByteLevelTokenizer.convert(tiny_tokenizer(), pad_token="<pad>")


@pytest.fixture(scope="session")
def text_encoder(tokenizer) -> "TextEncoder":
    """Texts through that."""
    from dyntok_jax.text import TextEncoder

    return TextEncoder(tokenizer)


@pytest.fixture(scope="session")
def sentencepiece() -> SentencePieceProcessor:
    """Mistral-7B-v0.1's pieces, from the file that the package mistral-common carries."""
    return SentencePieceProcessor(str(Path(find_spec("mistral_common").origin).parent / "data" / "tokenizer.model.v1"))


@pytest.fixture(scope="session")
def mistral_tokenizer(sentencepiece) -> Tokenizer:
    """Mistral-7B-v0.1's tokenizer, built from these."""
    processor = sentencepiece
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    ranks = {piece: index for index, piece in enumerate(pieces)}
    # SentencePiece joins whatever two pieces give the piece with the best score, which here is the lowest id
    pairs = ((piece[:at], piece[at:]) for piece in pieces[259:] for at in range(1, len(piece)))
    merges = [(left, right) for left, right in pairs if left in ranks and right in ranks]
    tokenizer = Tokenizer(models.BPE(ranks, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer
