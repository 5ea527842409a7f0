"""Tables in the docs of what merging loses and saves in each language."""

from collections.abc import Iterable

from experiments.shared.recorded import METHODS, SHARES, Figures, figures_of, table


def bitext_means() -> str:
    """Accuracy and tokens saved at each share, mean of the languages with spaces, on both sets."""
    rows = []
    for name, title in (("bitext_udhr", "Universal Declaration"), ("bitext_lohelp", "software help")):
        figures = figures_of(name)
        pools = {value for key, value in figures.items() if key.startswith("pool_")}
        means = [
            [f"{figures[f'{method}_share{share}_accuracy_percent_mean']:.1f} %" for share in SHARES[1:]]
            for method in ("hypernet", "fvt")
        ]
        saved = [f"{figures[f'fvt_share{share}_reduction_percent_mean']:.1f} %" for share in SHARES[1:]]
        static = f"{figures['static_accuracy_percent_mean']:.1f} %"
        rows += [
            [f"{title}, {figures['languages_in_mean']} languages", _only(pools), static, *means[0]],
            ["… FVT", "", "", *means[1]],
            ["… tokens saved", "", "", *saved],
        ]
    return table(["", "pool", "static", *(f"share {share} %" for share in SHARES[1:])], rows)


def bitext_languages(name: str, method: str) -> str:
    """Accuracy and, in brackets, tokens saved of each language."""
    figures = figures_of(name)
    codes = [key.removeprefix("pool_paragraphs_") for key in figures if key.startswith("pool_")]

    def row(title: str, code: str) -> list[str]:
        settings = [f"{method}_share{share}" for share in SHARES]
        accuracies = [f"{figures[f'{setting}_accuracy_percent_{code}']:.1f}" for setting in settings]
        saved = [f"{figures[f'{setting}_reduction_percent_{code}']:.1f}" for setting in settings]
        cells = [f"{accuracy} ({reduction})" for accuracy, reduction in zip(accuracies, saved, strict=True)]
        return [title, f"{figures[f'static_accuracy_percent_{code}']:.1f}", *cells]

    cosines = [f"{figures[f'{method}_share{share}_cosine_mean']:.3f}" for share in SHARES]
    rows = [row(code, code) for code in codes]
    rows.append(row(f"mean of {figures['languages_in_mean']} with spaces", "mean"))
    rows.append(["their mean cosine to static", "1", *cosines])
    return table([METHODS[method], "static", *(f"share {share} %" for share in SHARES)], rows)


def prices() -> str:
    """The price of a text in each language, static and merged, dearest first, and what retrieval of news loses."""
    figures = figures_of("retrieval_ntrex")
    codes = [key.removeprefix("pool_texts_") for key in figures if key.startswith("pool_texts_")]
    settings = _settings_with_losses(figures)
    full = settings[-1]
    rows = []
    for code in [*sorted(codes, key=lambda code: -figures[f"static_price_{code}"]), "mean"]:
        cost = [
            f"{figures[f'{setting}_{quantity}_{code}']:.2f}"
            for quantity in ("price", "premium")
            for setting in ("static", full)
        ]
        saved = f"{figures[f'{full}_reduction_percent_{code}']:.1f} %"
        static = f"{figures[f'static_accuracy_percent_{code}']:.1f} %"
        rows.append([_title(figures, code), *cost, saved, static, *_losses(figures, settings, code)])
    head = ["", "price, static", "merged", "premium, static", "merged", "tokens saved", "retrieval, static"]
    return table([*head, *(f"loss, {_name(setting)}" for setting in settings)], rows)


def _settings_with_losses(figures: Figures) -> list[str]:
    suffix = "_loss_points_mean"
    return [key.removesuffix(suffix) for key in figures if key.endswith(suffix)]


def _losses(figures: Figures, settings: Iterable[str], code: str) -> list[str]:
    return [f"{figures[f'{setting}_loss_points_{code}']:.1f}" for setting in settings]


def _name(setting: str) -> str:
    method, share = setting.split("_share")
    return f"{METHODS[method]}, share {share} %"


def _title(figures: Figures, code: str) -> str:
    return f"mean of {figures['languages_in_mean']} with spaces" if code == "mean" else code


def _only(values: Iterable) -> str:
    (value,) = values
    return str(value)


LANGUAGE_TABLES = {
    "bitext_means": bitext_means,
    "bitext_udhr_fvt": lambda: bitext_languages("bitext_udhr", "fvt"),
    "bitext_udhr_hypernet": lambda: bitext_languages("bitext_udhr", "hypernet"),
    "bitext_lohelp_fvt": lambda: bitext_languages("bitext_lohelp", "fvt"),
    "bitext_lohelp_hypernet": lambda: bitext_languages("bitext_lohelp", "hypernet"),
    "prices": prices,
}
"""A part of the tables that `tables.py` knows by name."""
