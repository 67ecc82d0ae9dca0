"""Parameters of the official StyleGAN2 generator with and without MTM, and the paper's Table 4: make count-params.

Builds the networks of a patched copy of vendor/stylegan3 at 128 px and full width, and counts their parameters.
"""

from types import ModuleType

import click

from mtm_ops.module import HEADS
from tools.hosts import imported

SETTINGS = ("low", "low,mid", "low,mid,high")
PAPER_M = dict(zip((None, *SETTINGS), (27.78, 28.55, 28.94, 29.32), strict=True))  # Table 4, "# Param."


def count(networks: ModuleType, mtm: str | None, head: str, mapping_layers: int = 2) -> tuple[int, int]:
    """(parameters, MTM modules) of an unconditional StyleGAN2 at 128 px; `networks` is the patched host's module."""
    G = networks.Generator(512, 0, 512, 128, 3, mapping_kwargs={"num_layers": mapping_layers}, mtm=mtm, mtm_head=head)
    modules = [name for name, _ in G.named_modules() if name.endswith(".mtm")]
    return sum(p.numel() for p in G.parameters()), len(modules)


def _row(layers: str, head: str, modules: int, total: int, added: int, paper: float, paper_added: float) -> str:
    same = abs(added / 1e6 - paper_added) < 0.01
    plus = f"{added:>10,}{paper:>9.2f}{paper_added:>+8.2f}" if modules else f"{'':>10}{paper:>9.2f}{'':>8}"
    verdict = ("yes" if same else "NO") if modules else "NO: the closest standard configuration"
    return f"{layers:<14}{head:<13}{modules:>7}{total:>12,}{plus}  {verdict}"


def table(networks: ModuleType) -> list[str]:
    """The lines that `make count-params` prints."""
    head_line = ("layers", "head", "modules", "parameters", "added", "paper", "added")
    lines = [
        "StyleGAN2, 128 px, unconditional, 2 mapping layers; the paper's Table 4 in millions.",
        "{:<14}{:<13}{:>7}{:>12}{:>10}{:>9}{:>8}  match".format(*head_line),
    ]
    base, _ = count(networks, None, "offset")
    lines.append(_row("none", "-", 0, base, 0, PAPER_M[None], 0))
    for head in HEADS:
        before, paper_before = base, PAPER_M[None]
        for mtm in SETTINGS:
            total, modules = count(networks, mtm, head)
            paper = PAPER_M[mtm]
            lines.append(_row(mtm, head, modules, total, total - before, paper, round(paper - paper_before, 2)))
            before, paper_before = total, paper
    lines.append("A module of 512 channels has 512*512 + 512 + n*512*9 + n; n is 18 (offset) or 27 (offset+mask).")
    return [*lines, "Why two heads, and which the paper may have trained: docs/deviations.md"]


@click.command()
def main() -> None:
    """Print the generator's parameters for every layer group and both heads, beside the paper's Table 4."""
    with imported("stylegan3") as module:
        for line in table(module("training.networks_stylegan2")):
            click.echo(line)


if __name__ == "__main__":
    main()
