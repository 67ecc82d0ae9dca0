"""Parameters of the official StyleGAN2 generator with and without MTM, beside the paper's Table 4: make count-params.

Builds the networks of a patched copy of vendor/stylegan3 at 128 px and full width, and counts.
"""

import importlib
import sys
import tempfile
from pathlib import Path

import click

from mtm_ops.module import HEADS
from overlay.catalog import load_hosts, load_patches
from overlay.git import Checkout, open_checkout, read_blobs, tree_blobs
from overlay.inserter import insert

_ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("low", "low,mid", "low,mid,high")
PAPER_M = dict(zip((None, *SETTINGS), (27.78, 28.55, 28.94, 29.32), strict=True))  # Table 4, "# Param."
_CONCERNS = ("compat", "mtm")
_FOLDERS = ("dnnlib", "torch_utils", "training")


def patched_copy(folder: Path) -> None:
    """Put stylegan3's network code with our lines into `folder`, from the commit; vendor/'s files are not touched.

    Raises:
        click.ClickException: where the submodule is not fetched.
    """
    host = next(h for h in load_hosts(_ROOT) if h.name == "stylegan3")
    checkout = open_checkout(host.folder)
    if checkout is None:
        raise click.ClickException(
            f"{host.vendor} must be fetched, for its networks are counted; got an empty folder. "
            f"Run: git submodule update --init {host.vendor}"
        )
    files = _source_files(checkout, host.commit)
    blobs = read_blobs(checkout, list(files.values()))
    insertions: dict[str, dict] = {}
    for concern, patch in load_patches(host).items():
        for file in patch.files if concern in _CONCERNS else ():
            insertions.setdefault(file.path, {})[concern] = file.insertions
    for path, blob in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(insert(blobs[blob], insertions.get(path, {})))


def _source_files(checkout: Checkout, commit: str) -> dict[str, str]:
    """path -> blob of the Python files that the networks import."""
    tree = tree_blobs(checkout, commit) or {}
    return {p: blob for p, (_, blob) in tree.items() if p.split("/")[0] in _FOLDERS and p.endswith(".py")}


def count(mtm: str | None, head: str, mapping_layers: int = 2) -> tuple[int, int]:
    """(parameters, MTM modules) of an unconditional StyleGAN2 at 128 px; the patched code must be importable."""
    networks = importlib.import_module("training.networks_stylegan2")
    G = networks.Generator(512, 0, 512, 128, 3, mapping_kwargs={"num_layers": mapping_layers}, mtm=mtm, mtm_head=head)
    modules = [name for name, _ in G.named_modules() if name.endswith(".mtm")]
    return sum(p.numel() for p in G.parameters()), len(modules)


def _row(layers: str, head: str, modules: int, total: int, added: int, paper: float, paper_added: float) -> str:
    same = abs(added / 1e6 - paper_added) < 0.01
    plus = f"{added:>10,}{paper:>9.2f}{paper_added:>+8.2f}" if modules else f"{'':>10}{paper:>9.2f}{'':>8}"
    verdict = ("yes" if same else "NO") if modules else "NO: the closest standard configuration"
    return f"{layers:<14}{head:<13}{modules:>7}{total:>12,}{plus}  {verdict}"


def table() -> list[str]:
    """The lines that `make count-params` prints."""
    head_line = ("layers", "head", "modules", "parameters", "added", "paper", "added")
    lines = [
        "StyleGAN2, 128 px, unconditional, 2 mapping layers; the paper's Table 4 in millions.",
        "{:<14}{:<13}{:>7}{:>12}{:>10}{:>9}{:>8}  match".format(*head_line),
    ]
    base, _ = count(None, "offset")
    lines.append(_row("none", "-", 0, base, 0, PAPER_M[None], 0))
    for head in HEADS:
        before, paper_before = base, PAPER_M[None]
        for mtm in SETTINGS:
            total, modules = count(mtm, head)
            paper = PAPER_M[mtm]
            lines.append(_row(mtm, head, modules, total, total - before, paper, round(paper - paper_before, 2)))
            before, paper_before = total, paper
    lines.append("A module of 512 channels has 512*512 + 512 + n*512*9 + n; n is 18 (offset) or 27 (offset+mask).")
    return [*lines, "Why two heads, and which the paper may have trained: docs/deviations.md"]


@click.command()
def main() -> None:
    """Print the generator's parameters for every layer group and both heads, beside the paper's Table 4."""
    with tempfile.TemporaryDirectory() as folder:
        patched_copy(Path(folder))
        sys.path.insert(0, folder)
        for line in table():
            click.echo(line)


if __name__ == "__main__":
    main()
