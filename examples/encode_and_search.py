"""A search engine for a text file: its lines become vectors, a question finds the nearest.

    python examples/encode_and_search.py "Wer darf wählen?"
    python examples/encode_and_search.py "Who may vote?" --file notes.txt --share 50

Without a file, the German paragraphs of the packaged Universal Declaration. Needs the extra `offline`.
"""

from pathlib import Path

import tyro

from dyntok_jax import DynamicEncoder, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.text import read_lines


def search(
    question: tyro.conf.Positional[str],
    file: Path | None = None,
    share: float = 100,
    model: str = "e5-small",
    results: int = 3,
) -> list[tuple[float, str]]:
    """Finds the lines that answer a question.

    Args:
      question: in any language that the model reads.
      file: UTF-8 text, a paragraph a line.
      share: percent of the possible merging; 0 merges nothing.
      model: a folder, a Hub id or a packaged model.
      results: how many lines to show.
    """
    lines = read_lines(str(file)) if file else load_sample()["de"]
    encoder = DynamicEncoder.load(model)
    passages = encoder.encode(lines, goal=Share(share), prefix="passage: ")
    query = encoder.encode([question], goal=Share(share), prefix="query: ")
    cosine_N = passages.embeddings_ND @ query.embeddings_ND[0]  # embeddings have length 1
    found = [(float(cosine_N[at]), lines[at]) for at in cosine_N.argsort()[::-1][:results]]
    print(f"{len(lines)} lines, {passages.n_subwords.sum()} subwords, {passages.n_tokens.sum()} tokens")
    for cosine, line in found:
        print(f"{cosine:.3f}  {line}")
    return found


if __name__ == "__main__":
    tyro.cli(search, description=__doc__)
