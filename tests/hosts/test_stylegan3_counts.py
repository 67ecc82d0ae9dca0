"""make count-params: what the module costs at 128 px, and where the paper's Table 4 differs."""

import forked
import pytest
from lab import ROOT, host_of

from overlay.git import open_checkout

HOST = host_of("stylegan3")


def test_count_params_prints_two_one_and_one_modules_and_their_exact_sizes():
    if open_checkout(HOST.folder) is None:
        pytest.skip(f"{HOST.vendor} is not fetched: git submodule update --init {HOST.vendor}")
    done = forked.run("-m", "tools.count_params", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("none", "low"))]
    assert [(r[0], r[1], r[2], r[4], r[7]) for r in rows[1:]] == [
        ("low", "offset", "2", "691,236", "NO"),
        ("low,mid", "offset", "3", "345,618", "NO"),
        ("low,mid,high", "offset", "4", "345,618", "NO"),
        ("low", "offset+mask", "2", "774,198", "yes"),
        ("low,mid", "offset+mask", "3", "387,099", "yes"),
        ("low,mid,high", "offset+mask", "4", "387,099", "yes"),
    ]
    assert rows[0][:5] == ["none", "-", "0", "27,752,733", "27.78"]
