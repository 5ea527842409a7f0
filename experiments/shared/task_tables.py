"""Tables in the docs of adapters for tasks: XNLI, Universal NER, merged adapters, topics, and their speed."""

from experiments.shared.recorded import METHODS, Figures, figures_of, table


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
    rows = []
    for one in [
        *sets,
        *(group for group in ("all", "spaced") if f"{adapter}_static_{measure}_percent_{group}" in figures),
    ]:
        cells = [
            f"{figures[f'{prefix}{setting}_loss_points_{one}']:.2f} "
            f"({figures[f'{prefix}{setting}_reduction_percent_{one}']:.1f})"
            for setting in settings
        ]
        rows.append([GROUPS.get(one, one), f"{figures[f'{adapter}_static_{measure}_percent_{one}']:.1f} %", *cells])
    return table(["", "static", *map(_title, settings)], rows)


def xnli_curve() -> str:
    """Accuracy in English against merges of a batch, with the reference's lengths and accuracy."""
    from experiments.xnli import TASK

    figures = figures_of("xnli")
    rows = []
    for key in figures:
        if key.startswith("tokens_merges"):
            merges = int(key.removeprefix("tokens_merges"))
            scores = [f"{figures[f'static_{method}_merges{merges}_accuracy_percent_en']:.2f} %" for method in METHODS]
            known = [f"{TASK.tokens[merges]:.3f}", f"{TASK.scores[merges]:.2f} %"]
            rows.append([str(merges), f"{figures[key]:.3f}", known[0], *scores, known[1]])
    head = ["merges", "tokens a pair", "the reference's", *METHODS.values(), "the reference's, XLM-R base"]
    return table(head, rows)


def merged_adapters() -> str:
    """Scores of a task adapter, a tokenization adapter, and both merged by every method."""
    figures = figures_of("adapter_merging")
    names = [key.removesuffix("_dynamic_percent") for key in figures if key.endswith("_dynamic_percent")]
    rows = [
        [name.replace("_", " "), *(f"{figures[f'{name}_{kind}_percent']:.2f} %" for kind in ("static", "dynamic"))]
        for name in names
    ]
    return table(["adapter", "static", "fully merged"], rows)


def task_speed() -> str:
    """Labels and training steps, static and dynamic."""
    figures = figures_of("bench_tasks")
    rows = []
    for what, title in (("prediction", "from text to label"), ("training", "a training step")):
        seconds = [f"{figures[f'{what}_{mode}_seconds']:.1f} s" for mode in ("static", "dynamic")]
        ratios = [f"{figures[f'{what}_{one}']:.2f} ×" for one in ("gain", "gain_median", "padded_token_ratio")]
        rows.append([title, *seconds, *ratios])
    return table(["", "static", "dynamic", "gain", "median of rounds", "padded tokens, static ÷ dynamic"], rows)


def topics() -> str:
    """A probe's accuracy on topics in each language, and its losses."""
    figures = figures_of("topics_sib200")
    prefix, suffix = "static_accuracy_percent_", "_loss_points_mean"
    settings = [key.removesuffix(suffix) for key in figures if key.endswith(suffix)]
    rows = []
    for code in [key.removeprefix(prefix) for key in figures if key.startswith(prefix)]:
        cells = [
            f"{figures[f'{setting}_loss_points_{code}']:.2f} ({figures[f'{setting}_reduction_percent_{code}']:.1f})"
            for setting in settings
        ]
        rows.append([_language(figures, code), f"{figures[prefix + code]:.1f} %", *cells])
    return table(["", "static", *map(_title, settings)], rows)


GROUPS = {"all": "mean of all", "spaced": "mean of those with spaces"}


def _language(figures: Figures, code: str) -> str:
    return f"mean of {figures['languages_in_mean']} with spaces" if code == "mean" else code


def _title(setting: str) -> str:
    method, share = setting.split("_share")
    return f"{METHODS[method]}, share {share} %"


TASK_TABLES = {
    "xnli": lambda: adapter_scores("xnli", "accuracy"),
    "xnli_uniform": lambda: adapter_scores("xnli_uniform", "accuracy"),
    "xnli_curve": xnli_curve,
    "uner": lambda: adapter_scores("uner", "entity_f1"),
    "merged_adapters": merged_adapters,
    "task_speed": task_speed,
    "topics": topics,
}
"""A part of the tables that `tables.py` knows by name."""
