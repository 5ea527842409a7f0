"""The README's example runs as it stands there."""

import re
from pathlib import Path


def test_the_library_example_runs(e5_small_folder, capsys):
    del e5_small_folder  # built, so that the example does not fetch it
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL).group(1)
    exec(compile(example, "README.md", "exec"), {})
    static, dynamic = re.findall(r"\[([\d ]+)\]", capsys.readouterr().out)[:2]
    assert sum(map(int, dynamic.split())) < sum(map(int, static.split()))
