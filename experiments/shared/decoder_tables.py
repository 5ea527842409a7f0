"""Tables in the docs of what a decoder keeps of merged words."""

from collections.abc import Sequence

from experiments.shared.recorded import METHODS, SHARES, figures_of, table

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "el": "Greek", "ru": "Russian"}


def retention_summary() -> str:
    """Bits per byte and the share kept of a context's value, at half and full merging."""
    figures = figures_of("retention_udhr")
    rows = []
    for code, language in LANGUAGES.items():
        bits = [
            f"{figures[f'{method}_share{share}_bits_per_byte_{code}']:.3f}" for method in METHODS for share in (50, 100)
        ]
        saved = [f"{figures[f'fvt_share{share}_reduction_percent_{code}']:.0f} %" for share in (50, 100)]
        kept = [
            f"{figures[f'fvt_share{share}_kept_percent_{code}']:.0f} → "
            f"{figures[f'hypernet_share{share}_kept_percent_{code}']:.0f} %"
            for share in (50, 100)
        ]
        ends = [f"{figures[f'{setting}_bits_per_byte_{code}']:.3f}" for setting in ("static", "floor")]
        rows.append([language, *saved, ends[0], *bits, ends[1], *kept])
    head = ["", "saved at 50 %", "at 100 %", "static", "FVT, 50 %", "100 %", "hypernetwork, 50 %", "100 %"]
    return table([*head, "no context", "kept at 50 %, FVT → hypernetwork", "at 100 %"], rows)


def retention_shares(method: str) -> str:
    """Bits per byte, the share kept, and agreement of the most probable token, at all shares."""
    figures = figures_of("retention_udhr")
    rows = []
    for code, language in LANGUAGES.items():
        settings = [f"{method}_share{share}" for share in SHARES]

        def cells(name: str, digits: int, settings: Sequence[str] = settings, code: str = code) -> list[str]:
            return [f"{figures[f'{setting}_{name}_{code}']:.{digits}f}" for setting in settings]

        static, floor = (figures[f"{end}_bits_per_byte_{code}"] for end in ("static", "floor"))
        rows.append([f"{language}, bits a byte", f"{static:.3f}", *cells("bits_per_byte", 3), f"{floor:.3f}"])
        rows.append(["… tokens saved, %", "0.0", *cells("reduction_percent", 1), ""])
        rows.append(["… kept, %", "100.0", *cells("kept_percent", 1), "0.0"])
        floor = figures[f"floor_agreement_percent_{code}"]
        rows.append(["… same next token, %", "100.0", *cells("agreement_percent", 1), f"{floor:.1f}"])
    return table([METHODS[method], "static", *(f"share {share} %" for share in SHARES), "no context"], rows)


def merged_words() -> str:
    """How a decoder continues English definitions of merged words, by what made the words' rows."""
    figures = figures_of("meaning")
    methods = {
        "FVT": (figures, "fvt"),
        "packaged hypernetwork": (figures, "hypernet"),
        "… and a linear map of states": (figures_of("meaning_fitted"), "hypernet"),
        "… both trained on words in context": (figures_of("meaning_distilled"), "hypernet"),
    }
    rows = []
    for title, (found, method) in methods.items():
        first, five, at_word, after = (
            found[f"{method}_en_definition_{measure}"]
            for measure in ("first_word_percent", "five_tokens_percent", "word_kl_nats", "after_kl_nats")
        )
        rows.append([title, f"{first:.1f} %", f"{five:.1f} %", f"{at_word:.2f}", f"{after:.3f}"])
    head = [f"{figures['words_en_definition']} English words", "first word", "five tokens"]
    return table([*head, "divergence at the word, nats", "at the 16 places after it"], rows)


DECODER_TABLES = {
    "retention_summary": retention_summary,
    "retention_fvt": lambda: retention_shares("fvt"),
    "retention_hypernet": lambda: retention_shares("hypernet"),
    "merged_words": merged_words,
}
"""A part of the tables that `tables.py` knows by name."""
