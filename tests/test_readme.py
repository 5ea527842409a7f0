"""The README's examples run as they stand there."""

import re
from pathlib import Path


def run_example(section: str) -> None:
    """The first Python of a section."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    example = re.search(rf"\n## {section}\n.*?```python\n(.*?)```", readme, flags=re.DOTALL).group(1)
    exec(compile(example, "README.md", "exec"), {})


def test_the_library_example_runs(e5_small_folder, capsys):
    del e5_small_folder  # built, so that the example does not fetch it
    run_example("As a library")
    static, dynamic = re.findall(r"\[([\d ]+)\]", capsys.readouterr().out)[:2]
    assert sum(map(int, dynamic.split())) < sum(map(int, static.split()))


def test_the_decoder_example_runs(smollm2_folder, capsys):
    del smollm2_folder
    run_example("Decoders")
    assert "The capital of France is Paris." in capsys.readouterr().out
