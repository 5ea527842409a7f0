"""Data in the package: sample text, XLM-R's normaliser, hypernetworks. Origins and licences: `NOTICE`.

All files are opened through `importlib.resources`, so that a zipped package works too.
"""

from importlib.resources import as_file, files
from pathlib import Path

from dyntok_jax.text import KEY_FIELD, read_rows


def load_sample() -> dict[str, list[str]]:
    """Reads the packaged sample: the Universal Declaration of Human Rights in the 15 languages of XNLI.

    Returns:
      Language code → the 50 paragraphs that all 15 languages have (NFC), in the order of the document; paragraph i of
      one language translates paragraph i of every other. English comes first, the others by their codes.

    >>> sample = load_sample()
    >>> len(sample), len(sample["de"]), sample["en"][0][:30]
    (15, 50, 'All human beings are born free')
    """
    rows = _complete_rows()
    languages = sorted(rows[0].keys() - {KEY_FIELD}, key=lambda language: (language != "en", language))
    return {language: [row[language] for row in rows] for language in languages}


def xlmr_charsmap() -> bytes:
    """The normalisation table of XLM-R's tokenizer: SentencePiece 0.1.82's `nmt_nfkc`, compiled.

    Returns:
      237,539 bytes, as `tokenizers.normalizers.Precompiled` takes them.

    >>> len(xlmr_charsmap())
    237539
    """
    return (files(__name__) / "xlmr_charsmap.bin").read_bytes()


def packaged_hypernet(model: str) -> Path | None:
    """The folder of the hypernetwork that was trained for a packaged model; None if the package has none.

    >>> packaged_hypernet("smollm2").name, packaged_hypernet("gpt2")
    ('smollm2', None)
    """
    folder = Path(str(files(__name__) / "hypernets" / model))
    return folder if folder.is_dir() else None


def _complete_rows() -> list[dict[str, str]]:
    with as_file(files(__name__) / "udhr_sample.jsonl") as path:
        rows = read_rows(path)
    n_fields = max(len(row) for row in rows)
    return [row for row in rows if len(row) == n_fields]
