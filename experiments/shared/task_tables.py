"""Tables in the docs of adapters for tasks."""

from experiments.shared.recorded import METHODS, figures_of, table
from experiments.shared.reference_figures import XNLI_ACCURACY, XNLI_TOKENS

GROUPS = {"all": "mean of all", "spaced": "mean of those with spaces"}


def adapter_scores(name: str, measure: str) -> str:
    """A row a set: the static score, and at each share the loss in points, in brackets the tokens saved in percent."""
    figures = figures_of(name)
    (adapter,) = (key.removeprefix("adapters_") for key in figures if key.startswith("adapters_"))
    prefix, suffix = f"{adapter}_", "_loss_points_all"
    settings = [
        key.removeprefix(prefix).removesuffix(suffix)
        for key in figures
        if key.startswith(prefix) and key.endswith(suffix) and "_share" in key
    ]
    sets = [key.removeprefix("texts_") for key in figures if key.startswith("texts_")]
    groups = [group for group in GROUPS if f"{adapter}_static_{measure}_percent_{group}" in figures]
    rows = []
    for one in [*sets, *groups]:
        cells = [
            f"{figures[f'{prefix}{setting}_loss_points_{one}']:.2f} "
            f"({figures[f'{prefix}{setting}_reduction_percent_{one}']:.1f})"
            for setting in settings
        ]
        rows.append([GROUPS.get(one, one), f"{figures[f'{adapter}_static_{measure}_percent_{one}']:.1f} %", *cells])
    return table(["", "static", *map(_title, settings)], rows)


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
}
"""A part of the tables that `tables.py` knows by name."""
