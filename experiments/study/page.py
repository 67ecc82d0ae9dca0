"""Generates the part of docs/study.md between two marks from results.json. Do not edit that part by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.files import UserError, atomic_output
from experiments.metrics import METRICS
from experiments.study import TABLES
from experiments.study.claims import CONTRAST
from experiments.study.compare import Compared, Study, claim_verdicts, compare_all
from experiments.study.stability import stability_lines
from experiments.study.statistics import LEVEL, NOT_RUN, REFUTED, UNDECIDED, UPHELD, Summary, welch
from experiments.table import load_table

BEGIN, END = "<!-- results: written by make study-report -->", "<!-- results end -->"
METRIC_NAMES = ("person_rate", "joint_distance", "frechet", "frechet_mobilenet")
CAPTIONS = {
    "paired": "Plain and Low. One point per run; a line joins the runs of a seed. The arrow shows the better direction",
    "curves": "The same metrics during training. Thin lines: seeds; thick lines: their mean",
    "controls": "Every row on people at 32 px. Points: runs; bar: their mean. Plain, low: five seeds; others: three",
    "offsets": "Root mean square of each layer's offsets during training, in px of that layer. One line per seed",
    "people": "Seed 0, not selected. Real images; plain; Low; Low with its offsets off; the last three share latents",
    "sweep": "Low, seed 0. Two paths, each from one latent to another, with the offsets off, at half strength and on",
    "film": "Low, seed 0. A path through four latents and back. Left to right: offsets off, at half strength, on",
}
SO_FAR = ", so far: not all seeds are there"
RATIO_LIMIT = 0.5  # ratio off / on of the switch: docs/study.md, "Decision rules"


def write_page(page: Path, study: Study, figures: Iterable[str]) -> None:
    """Writes the results into the page. Raises UserError as `check_page` does."""
    before, rest = check_page(page).split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    lines = "\n".join(results_lines(study, figures))
    with atomic_output(page) as partial:
        partial.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


def check_page(page: Path) -> str:
    """The page's text. Raises UserError if the page is missing, lacks a mark, or has the marks in another order."""
    if not page.is_file():
        raise UserError(f"study: --page must be a file; got {str(page)!r}, which is none. Run it in the checkout.")
    text = page.read_text(encoding="utf-8")
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise UserError(f"study: {page} must hold the lines {BEGIN} and {END}. Put them back (git checkout).")
    return text


def results_lines(study: Study, figures: Iterable[str]) -> Iterator[str]:
    """The results as Markdown."""
    compared = compare_all(study)
    if study.content["preset"] not in ("", "full"):
        yield f"**These are runs of the preset {study.content['preset']}: a smoke test. Its numbers mean nothing.**\n"
    yield from status_lines(study)
    yield "\n### Verdicts\n"
    yield from verdict_lines(study, compared)
    yield "\n### Comparisons\n"
    yield from comparison_lines(compared)
    for name in figures:
        caption = CAPTIONS[name.partition(".")[0]]
        yield f"\n![{caption}](study/{name})\n\n*{caption}.*"
    yield "\n### Offsets\n"
    yield from offset_lines(study)
    yield "\n### Stability\n"
    yield from stability_lines(study)
    yield "\n### Every run\n"
    yield from run_lines(study)


def planned_seeds(study: Study) -> dict[str, set[int]]:
    """The planned seeds of each row of the study."""
    return {row_id: set(row.seeds) for row_id, row in study.planned.items()}


def most_pairs(one: Compared, seeds: dict[str, set[int]]) -> int:
    """The number of pairs of the comparison when all runs are done."""
    return len(seeds[one.pairs.comparison.row] & seeds[one.pairs.comparison.baseline])


def status_lines(study: Study) -> Iterator[str]:
    """The numbers of planned and finished runs."""
    preset = study.content["preset"] or "full"
    yield "| table | row | planned | done |"
    yield "|---|---|---|---|"
    for name in TABLES:
        for row in load_table(name, preset).rows:
            done = len(study.rows.get(row.id, {}).keys() & set(row.seeds))
            yield f"| {name} | `{row.id}` | {len(row.seeds)} | {done or NOT_RUN} |"


def verdict_lines(study: Study, compared: list[Compared]) -> Iterator[str]:
    """A line for each claim."""
    yield "| claim | family | verdict |"
    yield "|---|---|---|"
    verdicts, seeds = claim_verdicts(compared), planned_seeds(study)
    for claim in dict.fromkeys(one.claim for one in compared):
        mine = [one for one in compared if one.claim == claim]
        early = any(one.summary.n < most_pairs(one, seeds) for one in mine) and verdicts[claim.id] != NOT_RUN
        yield f"| {claim.text} | {claim.family} | {verdicts[claim.id]}{SO_FAR if early else ''} |"
    contrast = contrast_of(study)
    for text, one, count, row in (
        ("MTM gains less on aligned than on people", contrast_verdict(contrast), contrast.n, CONTRAST[0].row),
        ("offsets off: pose collapses", collapse_verdict(study), len(switched(study)), "people-low"),
    ):
        yield f"| {text} | primary | {one}{SO_FAR if 0 < count < len(seeds[row]) else ''} |"
    if contrast.mean is not None:
        low, high = number(contrast.low), number(contrast.high)
        yield (
            f"\nThe relative gain in `{CONTRAST[0].metric}` on people minus that on aligned: "
            f"{contrast.mean:+.3f}, 95 % interval {low} to {high}, Welch's p {number(contrast.p_t)}."
        )


def contrast_of(study: Study) -> Summary:
    return welch(*[study.pairs(comparison).gains for comparison in CONTRAST])


def contrast_verdict(summary: Summary) -> str:
    if summary.mean is None:
        return NOT_RUN
    if summary.p_t is None or summary.p_t >= LEVEL:
        return UNDECIDED
    return UPHELD if summary.mean > 0 else REFUTED


def switched(study: Study) -> list[dict[str, Any]]:
    """The results of the switch (experiments.study.limbs) in each run of people-low."""
    found = [run["analysis"].get("limbs") for run in study.rows.get("people-low", {}).values()]
    return [one["switch"] for one in found if one]


def collapse_verdict(study: Study) -> str:
    """Upheld if the person rate or the spread of poses falls to half or less in every run; refuted if in none."""
    ratios = [min(one["person_rate_ratio"], one["pose_spread_ratio"]) for one in switched(study)]
    if not ratios:
        return NOT_RUN
    fell = [ratio <= RATIO_LIMIT for ratio in ratios]
    return UPHELD if all(fell) else REFUTED if not any(fell) else UNDECIDED


def comparison_lines(compared: list[Compared]) -> Iterator[str]:
    """A line for each comparison, with its numbers."""
    yield "A gain is positive where the first row is better. p: paired t, Holm within the family, none for exploratory."
    yield ""
    yield "| rows | metric | n | mean | baseline | gain | 95 % interval | least | p | sign-flip p | verdict |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for one in compared:
        comparison, pairs, s = one.pairs.comparison, one.pairs, one.summary
        at = f" (at {pairs.at_kimg:g} kimg, equal time)" if comparison.equal_time and pairs.at_kimg else ""
        means = [number(float(np.mean(values))) if values else "–" for values in (pairs.row, pairs.baseline)]
        interval = f"{number(s.low, '+')} to {number(s.high, '+')}" if s.low is not None else "–"
        unit = " of baseline" if comparison.relative and s.mean is not None else ""
        yield (
            f"| `{comparison.row}`{at} – `{comparison.baseline}` | {METRICS[comparison.metric].title} | {s.n} | "
            f"{means[0]} | {means[1]} | {number(s.mean, '+')}{unit} | {interval} | {comparison.least:g} | "
            f"{number(one.p)} | {number(s.p_flip)} | {one.verdict} |"
        )


def offset_lines(study: Study) -> Iterator[str]:
    """The results of experiments.study.limbs, run by run."""
    runs = [(seed, run["analysis"]["limbs"]) for seed, run in sorted(study.rows.get("people-low", {}).items())
            if run["analysis"].get("limbs")]  # fmt: skip
    if not runs:
        yield "Not run: `python -m experiments.study limbs`."
        return
    yield (
        "| seed | person rate, on / off | pose spread, on / off | R² of joints from offsets | from the same layers' "
        "inputs | from the plain network's | layers |"
    )
    yield "|---|---|---|---|---|---|---|"
    for seed, found in runs:
        s, fit = found["switch"], found["displacement"]
        plain = number(fit["r2_plain"]) if fit.get("r2_plain") is not None else NOT_RUN
        yield (
            f"| {seed} | {number(s['person_rate_on'])} / {number(s['person_rate_off'])} | "
            f"{number(s['pose_spread_on'])} / {number(s['pose_spread_off'])} | {number(fit['r2_offsets'])} | "
            f"{number(fit['r2_inputs'])} | {plain} | "
            f"{', '.join(fit['layers'])} |"
        )
    yield from exchange_lines(runs)


def exchange_lines(runs: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """The results of exchanging offsets between latents, run by run."""
    yield (
        "\nWith other offsets than its own, how many images show a person, and how do their joints correlate with "
        "those of the same latent?\n"
    )
    yield (
        "| seed | person rate: own offsets / mean of all latents / another latent's | correlation: the same images "
        "moved by 1 px | mean of all | another latent's | with the pose of that other latent |"
    )
    yield "|---|---|---|---|---|---|"
    for seed, found in runs:
        e = found.get("exchange")
        if e is None:
            yield f"| {seed} | {NOT_RUN} |||||"
            continue
        rates = " / ".join(number(e[f"person_rate_{name}"]) for name in ("own", "mean", "other"))
        values = [number(e[name]) for name in ("own_moved", "own_mean", "own_other", "donor_other")]
        yield f"| {seed} | {rates} | {' | '.join(values)} |"


def run_lines(study: Study) -> Iterator[str]:
    """Every run that ended, including failed ones."""
    names = " | ".join(METRICS[name].title for name in METRIC_NAMES)
    yield f"| run | parameters | kimg | processor time, s | {names} |"
    yield "|---|---|---|---|" + "---|" * len(METRIC_NAMES)
    for run in study.content["runs"]:
        name = f"`{run['row']}/{run['seed']}-{run['identity']}`"
        if run["status"] != "done":
            yield f"| {name} | {run['status']}: {run['message'].splitlines()[0] if run['message'] else ''} |"
            continue
        if not study.is_planned(run):
            name += " (of other options or seeds than the tables have now: not compared)"
        values = " | ".join(number(study.value(run, metric)) for metric in METRIC_NAMES)
        cpu_s = f"{study.cpu_s(run):.0f}" if run["times"] else "–"
        yield f"| {name} | {run['parameters'] or '–'} | {run['kimg']:g} | {cpu_s} | {values} |"


def number(value: float | None, sign: str = "") -> str:
    """Three significant digits; a dash for none."""
    return "–" if value is None else f"{value:{sign}.3g}"
