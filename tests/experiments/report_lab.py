"""Made-up result folders, laid out as the runner leaves them, for the report's tests."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments import ledger
from experiments.folder import claim
from experiments.images import grid
from experiments.provenance import provenance
from experiments.sheets import FILM_FRAMES, STRENGTHS
from experiments.table import Cost, Dataset, Preset, Row, Table
from experiments.table_model import Entry, Section
from experiments.trainers.contract import IMAGES, Run

CREDIT = "Images: Nobody & Co, CC BY-SA 4.0."
TITLE = "Fréchet distance, random embedding"
FINGERPRINT = {"backbone": "random", "weights_sha256": "ab" * 32, "ddof": 0}
DATA = {"nimg": 9, "resolution_px": 8, "content_sha256": "cd" * 32, "skipped": 0}


@cache
def facts() -> dict[str, Any]:
    """Provenance of this checkout and machine. Cached, so that git runs once."""
    return provenance(None)


def make_row(id: str, title: str, mtm: str = "none", **given: Any) -> Row:
    complete = {"trainer": "mini", "dataset": "d", "metrics": ["frechet"], "seeds": [0], "options": {"kimg": 3}}
    return Row(id=id, title=title, mtm=mtm, **{**complete, **given})


def make_table(
    *, rows: list[Row] | None = None, meaningless: bool = False, credit: str = CREDIT, **given: Any
) -> Table:
    """A table with the given rows, by default plain and low."""
    rows = rows or [make_row("plain", "Plain", **given), make_row("low", "MTM <Low>", "low", baseline="plain", **given)]
    cost = Cost(hours=1, machine="m", memory_gb=1, disk_gb=1)
    return Table(
        name="t",
        title="A <title> & more",
        about="About it.",
        datasets={"d": Dataset(recipe="own", title="Shapes", credit=credit)},
        presets={"full": Preset(cost=cost, meaningless=meaningless)},
        rows=rows,
    )


def make_run(table: Table, row: Row, seed: int, out: Path) -> Run:
    return Run(
        table=table.name,
        preset=table.preset,
        row=row.id,
        title=row.title,
        trainer=row.trainer,
        mtm=row.mtm,
        seed=seed,
        options=row.options,
        dataset=row.dataset,
        metrics=row.metrics,
        samples_nimg=5,
        identity={},
        folder=out / "runs" / row.id / f"{seed}-0123abcd",
    )


def start(out: Path, table: Table) -> None:
    """Write what the runner records before any run starts."""
    runs = [make_run(table, row, seed, out) for row in table.rows for seed in row.seeds]
    claim(out, table, {"d": DATA}, runs)


def finish(
    out: Path,
    table: Table,
    row_id: str,
    value: float | None,
    *,
    seed: int = 0,
    status: str = "done",
    entry: dict[str, Any] | None = None,
    **fingerprint: Any,
) -> None:
    """Record an attempt at a run, with one metric, ticks and images. `entry` replaces keys of the ledger's line."""
    row = table.row(row_id)
    folder = make_run(table, row, seed, out).folder
    (folder / "train").mkdir(parents=True, exist_ok=True)
    ticks = [
        {"kimg": k, "elapsed_s": k * 9.0, "s_per_kimg": 9.0, "G_loss": 1 / k, "path_length": 0.2 * k + seed, "odd": k}
        for k in (1.0, 2.0, 3.0)
    ]
    (folder / "train" / "stats.jsonl").write_text("".join(json.dumps(tick) + "\n" for tick in ticks))
    draw(folder / IMAGES, row.mtm != "none")
    measured = {"frechet": {"value": value, "fingerprint": FINGERPRINT | fingerprint}}
    line = {
        "event": "row",
        "row": row_id,
        "run": folder.relative_to(out).as_posix(),
        "status": status,
        "seed": seed,
        "wall_s": 27.0,
        "peak_rss_bytes": 123_000_000,
        "commands": [f"python -m train --outdir OUT/runs/{row_id}"],
        "trainer": {"mtm_impl": "native", "generator_parameters": 12345},
        "metrics": measured if status == "done" else {},
        **facts(),
    }
    ledger.append_entry(out / ledger.NAME, {k: v for k, v in {**line, **(entry or {})}.items() if v is not ...})


def draw(folder: Path, mtm: bool, noise_seed: int | None = None) -> None:
    """A run's images: teal with a red bar that moves with the strength, or noise, which is the worst to compress."""
    folder.mkdir(parents=True, exist_ok=True)
    random = None if noise_seed is None else np.random.default_rng(noise_seed)

    def save(name: str, width: int, height: int, bar: float | None = None) -> None:
        pixels = np.full((height, width, 3), (0, 128, 128), dtype=np.uint8)
        if random is not None:
            pixels[:] = random.integers(0, 256, pixels.shape, dtype=np.uint8)
        if bar is not None:
            pixels[:, int(bar * width * 0.6) : int(bar * width * 0.6) + width // 10] = (255, 0, 0)
        Image.fromarray(pixels).save(folder / f"{name}.png")

    scale = 1 if random is None else 6
    for name in ["reals", "samples"] + ["fig4", "offsets"] * mtm:
        save(name, 240 * scale, 100 * scale)
    for strength in STRENGTHS if mtm else ():
        save(f"strength-{strength:.1f}", 120 * scale, 20 * scale, strength)


def fill_many(out: Path) -> None:
    """42 rows in 14 groups, each with all images. Does not render the report."""
    rows = []
    for i in range(14):
        rows.append(make_row(f"plain-{i}", f"Plain {i}"))
        rows += [make_row(f"{m}-{i}", f"{m.title()} {i}", m, baseline=f"plain-{i}") for m in ("low", "mid")]
    table = make_table(rows=rows)
    start(out, table)
    for i, row in enumerate(rows):
        finish(out, table, row.id, 4.0 - i % 3 * 0.5)
        draw(make_run(table, row, 0, out).folder / IMAGES, row.mtm != "none", noise_seed=i if i % 8 == 0 else None)


def draw_film(folder: Path, videos: int = 2) -> None:
    """films.png as experiments.images draws it: each frame shows a bar, further right than in the frame before."""
    frames = torch.full((videos * FILM_FRAMES, 3, 32, 32), 255, dtype=torch.uint8)
    for i, frame in enumerate(frames):
        at = 3 * (i % FILM_FRAMES)
        frame[1 + i // FILM_FRAMES % 2, :, at : at + 6] = 0
    folder.mkdir(parents=True, exist_ok=True)
    grid(frames, FILM_FRAMES).save(folder / "films.png")


def fill_paper(out: Path, smoke: bool = False) -> Table:
    """Tables like the paper's: several metrics and costs, cited values, and rows done, partial, failed and not run."""
    metrics = ["fid", "clip_fd", "sfid"]
    rows = [
        make_row("plain", "StyleGAN2, a data set of a long name", metrics=metrics),
        make_row("low", "StyleGAN2 w/ MTM, a data set of a long name", "low", baseline="plain", metrics=metrics),
        make_row("video", "StyleGAN-V, SkyTimelapse", metrics=["fvd16"]),
        make_row(
            "video-low", "StyleGAN-V w/ MTM, SkyTimelapse at twice its size", "low", baseline="video", metrics=["fvd16"]
        ),
        make_row("late", "StyleSV, SkyTimelapse", metrics=["fvd16"]),
    ]
    paper = {"fid": 21.14, "clip_fd": 35.6, "sfid": 4.52}
    costs = {"training_ratio": 1.2, "inference_ratio": 1.0, "parameters_m": 28.55}
    first = [Entry(title="StyleGAN2", row="plain", paper=paper), Entry(title="w/ MTM", row="low", paper=paper)]
    second = [Entry(title="LongVideoGAN", paper={"fvd16": 116.5})]
    second += [Entry(title=row.title, row=row.id, paper={"fvd16": 73.9}) for row in rows[2:]]
    fourth = [Entry(title="Low, Mid, High", row="low", paper=paper | costs)]
    table = make_table(rows=rows, meaningless=smoke).model_copy(
        update={
            "sections": [
                Section(id="table1", title="Table 1: images", metrics=metrics, entries=first),
                Section(id="table3", title="Table 3: videos", metrics=["fvd16"], entries=second),
                Section(id="table4", title="Table 4: costs", metrics=metrics, measures=list(costs), entries=fourth),
            ],
            "base": "paper",
        }
    )
    start(out, table)
    for row_id, value in (("plain", 21.5), ("low", 1900.25)):
        measured = {name: {"value": value, "fingerprint": FINGERPRINT} for name in metrics}
        finish(out, table, row_id, None, entry={"metrics": measured})
    finish(out, table, "video", None, entry={"metrics": {"fvd16": {"value": 71.0, "fingerprint": FINGERPRINT}}})
    draw_film(make_run(table, table.row("video"), 0, out).folder / IMAGES)
    finish(out, table, "video-low", None, status="failed", entry={"message": "train ended with exit code 1."})
    late = make_run(table, table.row("late"), 0, out).folder / "train"
    late.mkdir(parents=True)
    (late / "stats.jsonl").write_text(json.dumps({"kimg": 1.5, "elapsed_s": 3.0}) + "\n")
    for row_id in ("plain", "low", "video"):
        strip = make_run(table, table.row(row_id), 0, out).folder / IMAGES
        grid(torch.full((4, 3, 32, 32), 127, dtype=torch.uint8), 4).save(strip / "strip.png")
    return table
