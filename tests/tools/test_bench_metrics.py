"""make bench-metrics: all three tools compute the same features from the same images."""

import pytest
from click.testing import CliRunner

from tools.bench_metrics import TOOLS, main


@pytest.mark.slow
def test_every_tool_runs_and_is_compared():
    result = CliRunner().invoke(main, ["--nimg", "3", "--size-px", "32", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.output.splitlines()[-3:]}
    assert list(rows) == list(TOOLS)
    assert rows["ours"][1:3] == ["1.00", "x"]
    for numbers in rows.values():
        assert float(numbers[0]) > 0
        assert int(numbers[3]) > 100  # MB
