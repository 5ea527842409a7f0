"""Files that are damaged at random: each is refused in one line or read as a legal file, soon and in little memory.

Of 1,000 mutations none may end in a traceback (anything but a `DyntokError`), take 20 seconds or 2 GB, or change what
is loaded where the file has a checksum or the change lies outside its numbers. Numbers in safetensors and GGUF have no
checksum, so a bit that is turned there is read as another number; such loads are counted apart.
"""

import hashlib
import json
import resource
import shutil
import signal
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dyntok_jax.convert import load_decoder, load_encoder, read_config
from dyntok_jax.convert.decoder_checkpoint import save_decoder
from dyntok_jax.convert.offline import write_gguf
from dyntok_jax.embedding import EmbeddingCache
from dyntok_jax.errors import DyntokError
from dyntok_jax.merging import learn_merges, load_merges
from dyntok_jax.models import DecoderConfig
from dyntok_jax.parameters import fingerprint
from dyntok_jax.text import ByteLevelTokenizer, ChatTemplate, TextEncoder, pad_batch
from dyntok_jax.vocabulary import (
    GrownVocabulary,
    RowSource,
    count_segments,
    embed_vocabulary,
    grow_entries,
    open_table,
)
from dyntok_jax.vocabulary.index import build_index, load_index, save_index
from tests.support.gguf_files import bpe_fields, llama_fields, tiny_llama, tiny_tensors, write_gguf_file
from tests.support.tiny import CHAT_TEMPLATE, tiny_decoder_tokenizer, write_tiny_decoder, write_tiny_encoder

N_MUTATIONS, SECONDS, BYTES = 1000, 20.0, 2 * 10**9
TEXT = "All human beings are born free. Ελευθερία 🙂"
CHAT = [{"role": "user", "content": TEXT}]
VALUES = [None, True, 0, -1, 1.5, 2**31 - 1, 2**31, 10**30, 1e308, "", "x", "\x1b[2J\0", "\ud800", [], {}, [[0]]]
HUGE = [b"\xff" * 8, struct.pack("<Q", 2**62), struct.pack("<Q", 2**40), struct.pack("<I", 2**31), bytes(8)]
WHOLE = [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b"9" * 5000]
WHOLE += [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
      files: those that are mutated, by patterns.
      load: from the folder to something that differs where what is loaded differs.
      numbers: where in a file its numbers begin, which have no checksum; None where there is one over all of them.
    """

    files: str
    load: Callable[[Path], Any]
    numbers: Callable[[bytes], int] | None = None


def digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


def loaded(load, folder):
    config, parameters = load(folder)
    return repr(config), fingerprint(parameters)


def load_table(folder):
    table = open_table(folder)
    return table.rows(0, table.config.rows).tobytes(), table.rows(0, table.config.rows, "output").tobytes()


def load_tokenizer(folder):
    tokenizer = ByteLevelTokenizer.load(folder)
    encoder = TextEncoder(tokenizer)
    return tokenizer.fingerprint, encoder.encode([TEXT]).ids_N.tolist(), encoder.encode_static([TEXT]).ids_N.tolist()


def load_chat(folder):
    chat = ChatTemplate.load(folder)
    return None if chat is None else chat.render(CHAT)


def load_gguf(folder):
    with_room = folder / "hf"
    shutil.rmtree(with_room, ignore_errors=True)
    with_room.mkdir()
    write_gguf(folder / "tiny.gguf", with_room)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(with_room.iterdir())]


def load_cache(folder):
    cache = EmbeddingCache.load(folder / "cache.safetensors", capacity=100, width=4)
    return fingerprint(cache._rows_CD), list(cache._slots)


def header_end(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


TARGETS = {
    "safetensors": Target("model.safetensors", lambda folder: loaded(load_encoder, folder), header_end),
    "index": Target("model.safetensors.index.json", lambda folder: loaded(load_decoder, folder)),
    "config": Target("config.json", lambda folder: repr(DecoderConfig.from_hf(read_config(folder)))),
    "tokenizer": Target("tokenizer.json", load_tokenizer),
    "template": Target("*config.json", load_chat),
    "jinja": Target("*.jinja", load_chat),
    "gguf": Target("tiny.gguf", load_gguf, lambda _: 0),
    "table": Target("**/*", load_table),
    "index folder": Target("*.*", lambda folder: fingerprint(load_index(folder, table=None)), header_end),
    "merges": Target("merges.jsonl", lambda folder: repr(load_merges(folder / "merges.jsonl"))),
    "cache": Target("cache.safetensors", load_cache, header_end),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of each kind."""
    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    write_tiny_encoder(root / "safetensors")
    write_tiny_decoder(root / "config", n_layers=1)
    config, decoder = load_decoder(root / "config")
    save_decoder(root / "index", config, decoder, max_shard_bytes=50_000)
    for name, file in (("tokenizer", "tokenizer.json"), ("template", "tokenizer_config.json")):
        (root / name).mkdir()
        shutil.copyfile(root / "config" / file, root / name / file)
    (root / "jinja").mkdir()
    (root / "jinja" / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (root / "gguf").mkdir()
    write_gguf_file(root / "gguf" / "tiny.gguf", tiny_tensors(tiny_llama()), bpe_fields() | llama_fields())
    tokenizer = ByteLevelTokenizer.convert(tiny_decoder_tokenizer())
    counts = count_segments([TEXT], TextEncoder(tokenizer))
    grown = grow_entries(counts, tokenizer, 20, max_subwords=5, min_count=1)
    vocabulary = GrownVocabulary.from_entries(tokenizer, grown, "pretoken")
    source = (jax.numpy.asarray(rng.normal(size=(tokenizer.n_own, 4)), jax.numpy.float32) for _ in range(2))
    embed_vocabulary(root / "table", vocabulary, RowSource(*source), chunk_rows=256)
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    save_index(root / "index folder", build_index(rows, rows[:32], special_ids=[1]), table="0")
    (root / "merges").mkdir()
    batch = pad_batch(TextEncoder(tokenizer).encode([TEXT] * 2), np.arange(2), pad_id=0)
    learnt = learn_merges([batch], 9, tokenizer=tokenizer.fingerprint, boundary="pretoken")
    learnt.save(root / "merges" / "merges.jsonl", tokenizer.pieces.__getitem__)
    (root / "cache").mkdir()
    cache = EmbeddingCache(100, 4)
    keys = [bytes([n]) * (n + 16) for n in range(20)]
    cache.fetch(keys, lambda missing: rng.normal(size=(len(missing), 4)).astype(np.float32))
    cache.save(root / "cache" / "cache.safetensors")
    return root


def mutated_bytes(content: bytes, rng: np.random.Generator) -> tuple[str, bytes, int]:
    """What was done, the bytes after it, and the first place that changed."""
    kind = rng.choice(["bits", "bits", "bits", "length", "cut", "more", "zeros", "again"])
    place = int(rng.integers(0, max(1, len(content) if rng.random() < 0.5 else min(len(content), 2000))))
    changed = bytearray(content)
    match kind:
        case "bits" if content:
            changed[place] ^= 1 << int(rng.integers(0, 8))
        case "length":
            huge = HUGE[rng.integers(0, len(HUGE))]
            changed[place : place + len(huge)] = huge
        case "cut":
            del changed[place:]
        case "more":
            place = len(changed)
            changed += rng.bytes(16)
        case "zeros":
            changed[place : place + 64] = bytes(min(64, len(changed) - place))
        case _:
            changed[place:place] = changed[place : place + 64]
    return str(kind), bytes(changed), place


def mutated_json(content: bytes, rng: np.random.Generator) -> bytes | None:
    """A field changed, left out or put in; None where it is no JSON object."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    at, places = value, []
    while isinstance(at, dict | list) and at:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = keys[rng.integers(0, len(keys))]
        places.append((at, key))
        at = at[key]
        if rng.random() < 0.3:
            break
    if not places:
        return None
    parent, key = places[-1]
    other = VALUES[rng.integers(0, len(VALUES))]
    match int(rng.integers(0, 4)):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[f"{key}_more"] = other
        case _:
            parent[key] = other
    return json.dumps(value).encode()


def mutate(path: Path, rng: np.random.Generator) -> tuple[str, int]:
    """Changes a file; returns how, and the first place that changed (-1: not told)."""
    content = path.read_bytes()
    draw = rng.random()
    if draw < 0.04:
        path.unlink()
        return "missing", -1
    if draw < 0.1:
        path.write_bytes(WHOLE[rng.integers(0, len(WHOLE))])
        return "another file", -1
    if draw < 0.55:
        if path.suffix == ".safetensors":  # the header is JSON
            end = header_end(content)
            header = mutated_json(content[8:end], rng)
            path.write_bytes(struct.pack("<Q", len(header)) + header + content[end:])
            return "header", -1
        if (changed := mutated_json(content, rng)) is not None:
            path.write_bytes(changed)
            return "field", -1
    kind, changed, place = mutated_bytes(content, rng)
    path.write_bytes(changed)
    return kind, place


class TooSlow(BaseException):
    """A load took too long; no handler of errors catches it."""


def too_slow(*_):
    raise TooSlow


@pytest.mark.slow
def test_mutated_files_are_refused_or_legal(whole, tmp_path):
    rng = np.random.default_rng(0)
    before = {name: target.load(shutil.copytree(whole / name, tmp_path / name)) for name, target in TARGETS.items()}
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counts, faults = Counter(), []
    handler = signal.signal(signal.SIGALRM, too_slow)
    try:
        for turn in range(N_MUTATIONS):
            name = list(TARGETS)[turn % len(TARGETS)]
            target, folder = TARGETS[name], tmp_path / name
            shutil.rmtree(folder)
            shutil.copytree(whole / name, folder)
            files = sorted(path for path in folder.glob(target.files) if path.is_file())
            path = files[rng.integers(0, len(files))]
            content = path.read_bytes()
            kind, place = mutate(path, rng)
            what = f"{turn}: {kind} of {path.relative_to(tmp_path)}"
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            began = time.monotonic()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    after = target.load(folder)
            except DyntokError as error:
                counts[name, "refused"] += 1
                if "\x1b" in str(error):
                    faults.append(f"{what} reaches the terminal: {error}")
                continue
            except TooSlow:
                faults.append(f"{what} takes more than {SECONDS:.0f} s")
                continue
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                faults.append(f"{what} raises {type(error).__name__}: {str(error)[:200]}")
                continue
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
                if taken > BYTES:
                    faults.append(f"{what} takes {taken / 1e9:.1f} GB, or one before it")
                    base += taken
                counts["seconds", name] += time.monotonic() - began
            if after == before[name]:
                counts[name, "as before"] += 1
            elif is_legal(path, content, kind, place, target):
                in_numbers = target.numbers is not None and place >= 0
                counts[name, "other numbers" if in_numbers else "another legal file"] += 1
            else:
                faults.append(f"{what} at {place} is read as something else")
    finally:
        signal.signal(signal.SIGALRM, handler)
    for key, count in sorted(counts.items()):
        print(*key, round(count, 1))
    assert not faults, "\n".join(faults)
    assert sum(count for (_, what), count in counts.items() if what == "refused") > N_MUTATIONS / 4


def is_legal(path: Path, content: bytes, kind: str, place: int, target: Target) -> bool:
    """Whether a file may say what is read from it: another number, another text; but not in a table that is sealed."""
    if path.suffix in (".json", ".jsonl", ".jinja") or kind == "header":
        return path.name not in ("zarr.json", "done.json")
    return target.numbers is not None and place >= target.numbers(content)
