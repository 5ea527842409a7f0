"""A hypernetwork for an encoder in five minutes on two CPU cores, and what it is worth beside FVT.

    python examples/train_hypernet.py --output five-minutes
    dyntok encode --hypernet five-minutes/run/hypernet

It trains on the first 40 paragraphs of the packaged Universal Declaration in some languages, and compares on the last
10: the cosine of merged embeddings to static ones, 1 being the same. Expect 0.959 by FVT and 0.974. A real one
reads megabytes of text: the model card in `dyntok_jax/assets/hypernets/e5-small` has its commands. Needs the extras `offline` and `train`.
"""

from pathlib import Path

import tyro

from dyntok_jax import DynamicEncoder
from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main as dyntok

TRAINED_ON = 40


def run(
    output: Path,
    model: str = "e5-small",
    steps: int = 80,
    languages: tuple[str, ...] = ("de", "el", "ru", "tr"),
    options: tuple[str, ...] = (),
) -> dict[str, float]:
    """Trains, and returns the mean cosine to static embeddings by FVT and by the new hypernetwork.

    Args:
      output: folder for text, run and hypernetwork.
      model: a folder, a Hub id or a packaged model.
      steps: of training.
      languages: of the sample.
      options: more options of `dyntok train-hypernet`.
    """
    sample = load_sample()
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for language in languages:
        files.append(output / f"{language}.txt")
        files[-1].write_text("\n".join(sample[language][:TRAINED_ON]) + "\n", encoding="utf-8")
    texts = [text for language in languages for text in sample[language][TRAINED_ON:]]

    command = ["train-hypernet", "--model", model, "--output", str(output / "run"), "--text", *map(str, files)]
    if status := dyntok([*command, "--steps", str(steps), "--held-out", "4", *options]):
        raise SystemExit(status)

    cosines = {}
    for name, hypernet in (("FVT", None), ("hypernetwork", str(output / "run" / "hypernet"))):
        encoder = DynamicEncoder.load(model, hypernet)
        static, merged = encoder.encode(texts, goal=None), encoder.encode(texts)
        cosines[name] = float((static.embeddings_ND * merged.embeddings_ND).sum(axis=1).mean())
        print(f"{name}: {merged.n_tokens.sum()} tokens for {static.n_tokens.sum()}, cosine {cosines[name]:.4f}")
    return cosines


if __name__ == "__main__":
    tyro.cli(run, description=__doc__)
