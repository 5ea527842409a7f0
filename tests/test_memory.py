"""Loading, converting and exporting a decoder takes hardly more memory than the decoder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what is freed is given back at once, so that memory held is told from memory that malloc keeps for later
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
MOST = {"load": 1.3, "export": 1.4, "to_orbax": 1.4, "from_orbax": 1.6}
"""For 2 GB all are below 1.3; of 0.2 GB, the 40 MB that orbax takes for itself are a fifth."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_model_is_never_twice_in_memory(tmp_path):
    command = [sys.executable, "-m", "tests.support.memory_probe", str(tmp_path), "14", "4"]
    result = subprocess.run(
        command, env=os.environ | MALLOC, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
    )
    shares = json.loads(result.stdout)
    assert shares.pop("gigabytes") > 0.18
    assert {step: share for step, share in shares.items() if share > MOST[step]} == {}
    assert min(shares.values()) > 0.9  # it is measured at all
