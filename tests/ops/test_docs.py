"""The examples in the documentation run."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import mtm_ops

ROOT = Path(__file__).parents[2]
MODULES = ["mtm_ops", *(f"mtm_ops.{m.name}" for m in pkgutil.iter_modules(mtm_ops.__path__))]
WITH_EXAMPLES = {"mtm_ops.functional", "mtm_ops.module", "mtm_ops.onnx", "mtm_hosts.layers"}
SETUP = "from mtm_ops import *\nimport torch\n"


@pytest.mark.parametrize("name", MODULES)
def test_doctests_run(name):
    module = importlib.import_module(name)
    names = {"torch": importlib.import_module("torch"), **vars(mtm_ops)}
    failed, attempted = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert attempted > 0 or name not in WITH_EXAMPLES


@pytest.mark.parametrize("name", mtm_ops.__all__)
def test_everything_public_has_an_example(name):
    assert ">>> " in (getattr(mtm_ops, name).__doc__ or "")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    assert importlib.import_module(name).__doc__


def readme_blocks() -> list[str]:
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.exists() else ""
    return [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "mtm_ops" in block]


def test_readmes_python_runs():
    blocks = readme_blocks()
    if not blocks:
        pytest.skip("README.md has no ```python block that uses mtm_ops")
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
