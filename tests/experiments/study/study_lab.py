"""Made-up runs of the study, in the form of results.json."""

import numpy as np

from experiments.study import TABLES
from experiments.study.compare import Study
from experiments.table import load_table


def options(row: str) -> dict:
    """The row's options in the tables."""
    return next(one.options for name in TABLES for one in load_table(name).rows if one.id == row)


def run(row: str, seed: int, value: float, cpu_s: float = 400.0, kept: dict | None = None, print_: str = "a") -> dict:
    metrics = {"person_rate": [value, print_], "joint_distance": [10 * (1 - value), print_], "frechet": [5.0, print_]}
    return {
        "row": row,
        "seed": seed,
        "identity": "0123abcd",
        "status": "done",
        "options": options(row),
        "kimg": 40,
        "times": {"20": [cpu_s / 2, cpu_s / 2], "40": [cpu_s + 99, cpu_s], "9": [1, 1]},  # in the order of the file
        "metrics": metrics,
        "kept": {kimg: {"person_rate": [one, print_]} for kimg, one in (kept or {}).items()},
        "analysis": {},
    }


def study(*runs: dict) -> Study:
    return Study({"preset": "full", "runs": list(runs)})


def whole() -> Study:
    """Every run of every table, done and analysed."""
    rng = np.random.default_rng(0)
    runs = []
    for row in [row for name in TABLES for row in load_table(name).rows]:
        for seed in row.seeds:
            value = float(rng.normal(0.6 if row.mtm == "none" else 0.7, 0.02))
            kept = {k: value * float(k) / 40 for k in str(row.options.get("keep-kimg", "")).split(",") if k}
            made = run(row.id, seed, value, kept=kept) | {"message": "", "parameters": 200_000}
            made["metrics"]["frechet_mobilenet"] = [3.0, "a"]
            if row.id == "people-low":
                made["analysis"] = {"limbs": dict(LIMBS)}
            runs.append(made)
    return Study({"preset": "full", "runs": runs})


LIMBS = {
    "switch": {
        "person_rate_on": 0.7,
        "person_rate_off": 0.2,
        "person_rate_ratio": 0.29,
        "pose_spread_on": 0.5,
        "pose_spread_off": None,
        "pose_spread_ratio": 1.0,
    },
    "exchange": {
        "person_rate_own": 0.7,
        "person_rate_mean": 0.71,
        "person_rate_other": 0.69,
        "own_moved": 0.8,
        "own_mean": 0.2,
        "own_other": None,
        "donor_other": 0.01,
    },
    "displacement": {"layers": ["convs.8", "convs.16"], "r2_offsets": 0.5, "r2_inputs": 0.6, "r2_plain": None},
    "offset_rms_px": [{"kimg": kimg, "layers": {"convs.8": kimg / 40, "convs.16": kimg / 80}} for kimg in (10, 40)],
}
