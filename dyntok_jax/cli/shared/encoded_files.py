"""The files that `dyntok encode` writes."""

import json
from collections.abc import Sequence
from pathlib import Path

from dyntok_jax.cli.shared.comparison import EncodedColumn
from dyntok_jax.storage import save_arrays
from dyntok_jax.text import ByteLevelTokenizer

FORMAT = "dyntok-embeddings 1"


def write_embeddings(path: Path, columns: Sequence[EncodedColumn], metadata: dict[str, str]) -> None:
    """Writes float32 tensors to a safetensors file.

    Pooled: one (texts, D) tensor per language, named by its code, or one named `embeddings` for a plain file. Hidden
    states: one (T, D) tensor per text, named `de/0`, `de/1` or `hidden/0` and so on.

    Args:
      path: the file.
      columns: what was encoded.
      metadata: options, stored in the file's header.
    """
    tensors = {}
    for of in columns:
        if of.result.embeddings_ND is not None:
            tensors[of.column.language or "embeddings"] = of.result.embeddings_ND
        elif of.result.hidden is not None:
            name = of.column.language or "hidden"
            tensors |= {f"{name}/{row}": hidden_TD for row, hidden_TD in enumerate(of.result.hidden)}
    save_arrays(path, tensors, {"format": FORMAT} | metadata)


def write_tokens(path: Path, columns: Sequence[EncodedColumn], tokenizer: ByteLevelTokenizer) -> None:
    """Writes JSON lines, one text per line.

    `index` is the text's position in its source (line or paragraph, from 0), `row` its row in the embeddings; `spans`
    are character ranges; `uncounted` are the positions in `tokens` of special tokens and prefixes, which neither
    `n_static` nor `n_tokens` counts.
    """
    with path.open("w", encoding="utf-8") as file:
        for of in columns:
            for row, tokens in enumerate(of.result.tokens):
                line = {
                    "source": of.column.name,
                    "index": of.column.index[row],
                    "row": row,
                    "n_static": int(of.n_static[row]),
                    "n_tokens": int(of.result.n_tokens[row]),
                    "tokens": tokens.strings(tokenizer),
                    "spans": tokens.span_T2.tolist(),
                    "uncounted": (~tokens.is_counted_T).nonzero()[0].tolist(),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
