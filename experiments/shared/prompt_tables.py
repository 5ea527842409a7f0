"""The tables in the docs of what merged prompts do to a decoder's answers: MMLU, MT-Bench, sums, positions."""

from experiments.shared.recorded import METHODS, SHARES, Figures, figures_of, table
from experiments.shared.result_tables import LANGUAGES

REFERENCE_SETTINGS = {
    "words": ("words", "word_tk_hypernet"),
    "all_predicted": ("all predicted", "original_tk_hypernet"),
    "longest_prefix": ("longest prefix", "lp_tk_hypernet"),
}


def mmlu_settings(name: str) -> str:
    """Accuracy, loss, agreement with static tokenization, tokens saved and time, a row a setting."""
    figures = figures_of(name)
    settings = {"static": ("static", "plain")}
    settings |= {
        f"{method}_share{share}": (f"{title}, share {share} %", "dynamic_bpe")
        for method, title in METHODS.items()
        for share in SHARES
    }
    rows = []
    for setting, (title, reference) in (settings | REFERENCE_SETTINGS).items():
        if f"{setting}_accuracy_percent" in figures:
            rows.append([title, f"`{reference}`", *_mmlu_cells(figures, setting)])
    head = [f"{figures['questions']} questions", "the reference's name", "accuracy", "loss, points", "static's choice"]
    return table([*head, "divergence, nats", "tokens saved", "first token"], rows)


def _mmlu_cells(figures: Figures, setting: str) -> list[str]:
    accuracy, low, high = (figures[f"{setting}_accuracy{end}_percent"] for end in ("", "_low", "_high"))
    loss, half = (figures[f"{setting}_loss{end}_points"] for end in ("", "_half_interval"))
    seconds = figures.get(f"{setting}_first_token_seconds")
    return [
        f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]",
        "" if setting == "static" else f"{loss:.1f} ± {half:.1f}",
        f"{figures[f'{setting}_same_choice_percent']:.1f} %",
        f"{figures[f'{setting}_kl_nats']:.4f}",
        f"{figures[f'{setting}_reduction_percent']:.1f} %",
        "" if seconds is None else f"{seconds:.2f} s",
    ]


def mmlu_groups(name: str) -> str:
    """Accuracy with its interval by group of subjects."""
    figures = figures_of(name)
    settings = ["static", *(f"{method}_share{share}" for method in METHODS for share in (50, 100))]
    titles = ["static", *(f"{title}, share {share} %" for title in METHODS.values() for share in (50, 100))]
    rows = []
    for group in ("STEM", "humanities", "social_sciences", "other"):
        cells = []
        for setting in settings:
            value, low, high = (figures[f"{setting}_accuracy{end}_percent_{group}"] for end in ("", "_low", "_high"))
            cells.append(f"{value:.0f} [{low:.0f}, {high:.0f}]")
        rows.append([group.replace("_", " "), str(figures[f"questions_{group}"]), *cells])
    return table(["accuracy, %", "questions", *titles], rows)


def positions() -> str:
    """The same figures with positions that count tokens and subwords."""
    words = {kind: figures_of(f"meaning_{kind}") for kind in ("positions_tokens", "positions_subwords")}
    questions = {kind: figures_of(f"mmlu_{kind}") for kind in ("positions_tokens", "positions_subwords")}
    rows = []
    for method, title in METHODS.items():
        for code in ("en", "de"):
            for measure, what, digits in (
                ("first_word_percent", "same first word, %", 1),
                ("after_kl_nats", "divergence at the 16 places after it, nats", 3),
            ):
                cells = [f"{found[f'{method}_{code}_definition_{measure}']:.{digits}f}" for found in words.values()]
                rows.append([f"{title}, merged words, {LANGUAGES[code]}: {what}", *cells])
        for measure, what, digits in (
            ("same_choice_percent", "static's choice, %", 1),
            ("kl_nats", "divergence over the options, nats", 4),
        ):
            cells = [f"{found[f'{method}_share100_{measure}']:.{digits}f}" for found in questions.values()]
            rows.append([f"{title}, MMLU, share 100 %: {what}", *cells])
    return table(["positions count", "tokens", "subwords"], rows)


def sums() -> str:
    """Right answers, and those of static tokenization, with digits protected and without."""
    figures = figures_of("arithmetic")
    settings = {"static": "static"}
    for method, title in METHODS.items():
        for way, what in (("protected", "digits protected"), ("unprotected", "digits merged")):
            settings[f"{method}_share100_{way}"] = f"{title}, {what}"
    rows = []
    for setting, title in settings.items():
        cells = [f"{figures[f'{setting}_{what}_percent']:.1f} %" for what in ("right", "as_static", "reduction")]
        rows.append([title, *cells])
    return table([f"{figures['sums']} sums", "right", "static's answer", "tokens saved"], rows)


def conversations() -> str:
    """Answers compared with static tokenization's, without a judge."""
    figures = figures_of("mt_bench")
    settings = {"static": "static", "static_other_seed": "static, other seed"}
    settings |= {
        f"{method}_share{share}": f"{title}, share {share} %"
        for method, title in METHODS.items()
        for share in (50, 100)
    }
    measures = {
        "reference_bits_per_byte": ".3f",
        "own_bits_per_byte": ".3f",
        "same_beginning_percent": ".1f",
        "word_f1_percent": ".1f",
    }
    rows = [
        [title, *(format(figures[f"{setting}_{measure}"], spec) for measure, spec in measures.items())]
        for setting, title in settings.items()
    ]
    head = [f"{figures['questions']} questions, two turns", "reference, bits a byte", "own answers, bits a byte"]
    return table([*head, "same beginning as static, %", "F1 of words with static, %"], rows)


PROMPT_TABLES = {
    "mmlu_5shot": lambda: mmlu_settings("mmlu_5shot"),
    "mmlu_5shot_groups": lambda: mmlu_groups("mmlu_5shot"),
    "mmlu_0shot": lambda: mmlu_settings("mmlu_0shot"),
    "positions": positions,
    "sums": sums,
    "conversations": conversations,
}
"""As `RESULT_TABLES`."""
