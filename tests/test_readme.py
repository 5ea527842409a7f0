"""The README and the docs keep to what they promise: their Python runs, their figures are the recorded ones."""

import re

import pytest

from experiments.shared.tables import ROOT, RUN, TABLES, differences, filled, marked_files, unknown_marks

README = ROOT / "README.md"
FENCE = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
MARKED_FENCE = re.compile(rf"{RUN}\n\n```python\n(.*?)```", flags=re.DOTALL)
LONGEST_README = 150


def run_example(section: str) -> None:
    """The first Python of a section of the README."""
    text = README.read_text(encoding="utf-8")
    example = FENCE.search(text, text.index(f"\n## {section}\n")).group(1)
    exec(compile(example, "README.md", "exec"), {})


@pytest.mark.slow
def test_the_encoder_example_runs(e5_small_folder, capsys):
    del e5_small_folder  # built, so that the example does not fetch it
    run_example("Encode")
    static, merged = re.findall(r"\[([\d ]+)\]", capsys.readouterr().out)[:2]
    assert sum(map(int, merged.split())) < sum(map(int, static.split()))


@pytest.mark.slow
def test_the_decoder_example_runs(smollm2_folder, capsys):
    del smollm2_folder
    run_example("Decode")
    assert "The capital of France is Paris." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("page", ["getting-started", "encoders", "decoders"])
def test_the_python_of_a_page_runs(page, e5_small_folder, smollm2_folder, capsys):
    del e5_small_folder, smollm2_folder
    names: dict = {}
    examples = MARKED_FENCE.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    for example in examples:
        exec(compile(example, f"{page}.md", "exec"), names)
    assert examples
    assert capsys.readouterr().out


def test_pages_that_want_their_python_run_are_run():
    pages = {path.stem for path in marked_files() if RUN in path.read_text(encoding="utf-8")}
    assert pages == set(test_the_python_of_a_page_runs.pytestmark[0].args[1])


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize("path", marked_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_and_figures_are_the_recorded_ones(path):
    text = path.read_text(encoding="utf-8")
    assert differences(text) == []
    assert unknown_marks(text) == []


def test_a_changed_figure_is_told_and_put_right():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    changed = text.replace("| FVT | 82.3 |", "| FVT | 99.9 |").replace(".1f -->61.6<!-- -->", ".1f -->70.0<!-- -->")
    assert changed.count("99.9") == changed.count("70.0") == 1
    assert differences(changed) == [
        "<!-- table: encoder_speed -->",
        "<!-- bench_decoder memory_gigabytes_per_second .1f -->",
    ]
    assert filled(changed) == text


def test_a_mark_that_nothing_fills_is_told():
    for text in ("<!-- bench_stream stream_batches -->500<!-- -->", "in <!-- bench_stream stream_batches -->500"):
        assert unknown_marks(text)


def test_every_table_is_shown():
    text = "\n".join(path.read_text(encoding="utf-8") for path in marked_files())
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in text] == []
