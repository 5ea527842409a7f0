"""Tables in the docs of adapters for tasks."""

from collections.abc import Mapping

from experiments.shared.recorded import METHODS, figures_of, table
from experiments.shared.reference_figures import XNLI_ACCURACY, XNLI_TOKENS

GROUPS = {"all": "mean of all", "spaced": "mean of those with spaces"}


def adapter_scores(name: str, measure: str) -> str:
    """A row a set and adapter: the static score, and at each share the loss in points (in brackets the tokens saved in
    percent); of several adapters, the mean ± standard deviation.
    """
    figures = figures_of(name)
    adapters = [key.removeprefix("adapters_") for key in figures if key.startswith("adapters_")]
    sets = [key.removeprefix("texts_") for key in figures if key.startswith("texts_")]
    settings = [
        key.removeprefix(f"{adapters[0]}_").removesuffix(f"_loss_points_{sets[0]}")
        for key in figures
        if key.startswith(f"{adapters[0]}_") and key.endswith(f"_loss_points_{sets[0]}") and "_share" in key
    ]
    rows = []
    for adapter in adapters:
        groups = [group for group in GROUPS if f"{adapter}_static_{measure}_percent_{group}" in figures]
        for one in [*sets, *groups]:
            static = f"{figures[f'{adapter}_static_{measure}_percent_{one}']:.1f}"
            static += _deviation(figures, f"{adapter}_static_{measure}_deviation_{one}", ".1f")
            cells = []
            for setting in (f"{adapter}_{setting}" for setting in settings):
                cell = f"{figures[f'{setting}_loss_points_{one}']:.2f}"
                cell += _deviation(figures, f"{setting}_loss_deviation_{one}", ".2f")
                cells.append(f"{cell} ({figures[f'{setting}_reduction_percent_{one}']:.1f})")
            title = GROUPS.get(one, one) + (f", {adapter}" if len(adapters) > 1 else "")
            rows.append([title, f"{static} %", *cells])
    return table(["", "static", *map(_title, settings)], rows)


def _deviation(figures: Mapping[str, float], key: str, form: str) -> str:
    return f" ± {figures[key]:{form}}" if key in figures else ""


def xnli_curve() -> str:
    """Accuracy in English against merges of a batch, with the reference's lengths and accuracy."""
    figures = figures_of("xnli")
    rows = []
    for key in figures:
        if key.startswith("tokens_merges"):
            merges = int(key.removeprefix("tokens_merges"))
            scores = [f"{figures[f'static_{method}_merges{merges}_accuracy_percent_en']:.2f} %" for method in METHODS]
            known = [f"{XNLI_TOKENS[merges]:.3f}", f"{XNLI_ACCURACY[merges]:.2f} %"]
            rows.append([str(merges), f"{figures[key]:.3f}", known[0], *scores, known[1]])
    head = ["merges", "tokens a pair", "the reference's", *METHODS.values(), "the reference's, XLM-R base"]
    return table(head, rows)


def _title(setting: str) -> str:
    method, share = setting.split("_share")
    return f"{METHODS[method]}, share {share} %"


TASK_TABLES = {
    "xnli": lambda: adapter_scores("xnli", "accuracy"),
    "xnli_pretoken": lambda: adapter_scores("xnli_pretoken", "accuracy"),
    "xnli_curve": xnli_curve,
    "uner": lambda: adapter_scores("uner", "entity_f1"),
}
"""A part of the tables that `tables.py` knows by name."""
