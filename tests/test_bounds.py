"""Which versions of other packages may be installed with this one."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
NEEDED = [Requirement(one) for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
BOUND = {one.name: one.specifier for one in NEEDED}


@pytest.mark.parametrize("version", ["1.0.0rc3", "1.0.0", "1.1", "2.0"])
def test_09_tokenizers_without_normalizers_are_out_of_bounds(version):
    assert not BOUND["tokenizers"].contains(version, prereleases=True)


def test_09_tokenizers_with_normalizers_are_within():
    assert BOUND["tokenizers"].contains("0.22.0")
    assert BOUND["tokenizers"].contains("0.24.0rc1", prereleases=True)


def test_09_the_newest_releases_are_tried_every_week():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert 'cron: "' in workflow
    assert "run: .ci/newest" in workflow
    subprocess.run(["bash", "-n", ROOT / ".ci" / "newest"], check=True)
