"""Draws docs/mtm.svg: where the module sits in a layer.  python -m tools.diagram [FILE]

The file has its own light and dark colours, which follow the reader's setting.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.files import atomic_output

SVG = Path("docs/mtm.svg")
WIDTH, TOP, HEIGHT = 900, 32, 298  # TOP: of the drawing, in px
STYLE = """
text { font: 15px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1c2430 }
text.small { font-size: 12.5px; fill: #5a6675 }
text.strong { font-weight: 600 }
.middle { text-anchor: middle }
.page { fill: #ffffff; stroke: #d5dbe3 }
.box { fill: #f2f5f9; stroke: #8b97a6; stroke-width: 1.2 }
.module { fill: #fff3e2; stroke: #d9822b; stroke-width: 1.6 }
.part { fill: #ffffff; stroke: #d9822b; stroke-width: 1.2 }
.line { fill: none; stroke: #5a6675; stroke-width: 1.6; marker-end: url(#tip) }
.moved { fill: none; stroke: #d9822b; stroke-width: 1.8; marker-end: url(#tip-moved) }
.tip { fill: #5a6675 }
.tip-moved, .tap { fill: #d9822b }
.place { fill: none; stroke: #8b97a6; stroke-width: 1.2 }
.pull { stroke: #d9822b; stroke-width: 1.1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6ebf1 } text.small { fill: #a3afbd }
  .page { fill: #161b22; stroke: #30363d } .box { fill: #222a34; stroke: #6c7886 }
  .module { fill: #33271a; stroke: #f0a04b } .part { fill: #221d17; stroke: #f0a04b }
  .line { stroke: #a3afbd } .tip { fill: #a3afbd } .moved, .pull { stroke: #f0a04b }
  .tip-moved, .tap { fill: #f0a04b } .place { stroke: #8b97a6 }
}
"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="middle {kind}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, *lines: str) -> Iterator[str]:
    """A rectangle with lines of text in its middle; the second and further ones small."""
    yield f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" class="{kind}"/>'
    top = y + height / 2 + 5 - 9 * (len(lines) - 1)
    for i, line in enumerate(lines):
        yield text(x + width / 2, top + 18 * i, line, "small" if i else "strong")


def arrow(*points: tuple[float, float], kind: str = "line") -> str:
    return f'<path class="{kind}" d="M{" L".join(f"{x:g} {y:g}" for x, y in points)}"/>'


def taps(left: float, top: float, step: float) -> Iterator[str]:
    """A 3x3 kernel's nine places, and where each tap samples."""
    for i in range(9):
        x, y = left + step * (i % 3), top + step * (i // 3)
        dx, dy = 5 * math.sin(0.9 * i) + 6, 6 * math.cos(0.7 * i) - 5
        yield f'<circle cx="{x:g}" cy="{y:g}" r="5" class="place"/>'
        yield f'<line x1="{x:g}" y1="{y:g}" x2="{x + dx:.1f}" y2="{y + dy:.1f}" class="pull"/>'
        yield f'<circle cx="{x + dx:.1f}" cy="{y + dy:.1f}" r="3.4" class="tap"/>'


def draw() -> str:
    """The complete SVG file."""
    parts: list[str] = []
    parts += box(24, 52, 92, 60, "box", "x", "layer input")
    parts += box(24, 226, 92, 60, "box", "w", "latent code")
    parts += ['<rect x="160" y="120" width="400" height="98" rx="9" class="module"/>']
    parts += [text(196, 142, "MTM", "strong")]
    parts += box(176, 156, 118, 46, "part", "affine map")
    parts += box(326, 132, 218, 74, "part", "modulated convolution", "of x, 3×3; its weight starts at 0")
    parts += box(326, 240, 218, 46, "box", "affine map", "the layer's own")
    parts += box(632, 52, 150, 234, "box", "")
    parts += [
        text(707, 78 + 18 * i, line, "strong") for i, line in enumerate(("deformable", "modulated", "convolution"))
    ]
    parts += [text(707, 142, "each tap samples x", "small"), text(707, 159, "at its place + offset", "small")]
    parts += taps(681, 199, 26)
    parts += box(818, 140, 58, 58, "box", "y")
    parts += [arrow((116, 76), (632, 76)), arrow((435, 76), (435, 130))]
    parts += [arrow((116, 256), (138, 256), (138, 179), (174, 179)), arrow((138, 256), (138, 263), (324, 263))]
    parts += [arrow((294, 179), (324, 179))]
    parts += [arrow((544, 169), (630, 169), kind="moved"), arrow((544, 263), (630, 263)), arrow((782, 169), (816, 169))]
    parts += [text(598, 160, "offset", "strong"), text(598, 187, "px", "small"), text(588, 254, "style", "small")]
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path class="{name}" d="M0 0 L10 5 L0 10 z"/></marker>'
        for name in ("tip", "tip-moved")
    )
    parts += [text(WIDTH / 2, 314, "Offsets of 0 give the layer without MTM: the same function, to rounding.", "small")]
    label = "A layer with MTM: from its input x and the latent w the module predicts where each tap samples."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {TOP} {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n'
        f"<style>{STYLE}</style>\n<defs>{tips}</defs>\n"
        f'<rect x="0.5" y="{TOP + 0.5}" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" class="page"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SVG
    with atomic_output(path) as partial:
        partial.write_text(draw(), encoding="utf-8")
