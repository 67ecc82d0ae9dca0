"""When a run counts as unstable, and what the page says about the rows."""

from study_lab import options, run, study

from experiments.study.stability import stability, stability_lines


def short(row: str, seed: int, on_the_way: list[float], last: float, status: str = "done") -> dict:
    made = run(row, seed, 0.5) | {"kimg": 12, "status": status, "message": "train: NaN"}
    made["metrics"]["frechet"] = [last, "a"]
    made["kept"] = {f"{3 * i + 3}": {"frechet": [value, "a"]} for i, value in enumerate(on_the_way)}
    return made


def test_a_run_is_unstable_if_a_loss_was_not_finite_or_it_got_worse_again():
    runs = [
        short("fast-all", 0, [9, 4, 6], 6.2),  # 1.55 times the lowest
        short("fast-all", 1, [9, 6, 4], 5.9),
        short("fast-all", 2, [], 0, status="failed"),
        short("short-low", 0, [9, 6, 5], 4),
    ]
    rows = {row.id: row for row in stability(study(*runs))}
    assert (rows["fast-all"].ended, rows["fast-all"].failed, rows["fast-all"].worse) == (3, 1, 1)
    assert (rows["short-low"].ended, rows["short-low"].failed, rows["short-low"].worse) == (1, 0, 0)
    lines = list(stability_lines(study(*runs)))
    assert "| `fast-all` | 3 | 1 | 1 | 6.05 (6.2, 5.9) | 1.55, 1.48 |" in lines
    assert "| `fast-low` | not run |||||" in lines


def test_a_failed_run_that_was_done_again_does_not_count_twice_and_another_length_does_not_count():
    other = short("fast-all", 1, [9], 99) | {"options": options("fast-all") | {"kimg": 6}}
    runs = [short("fast-all", 0, [], 0, status="failed"), short("fast-all", 0, [5], 4), other]
    (row,) = [row for row in stability(study(*runs)) if row.id == "fast-all"]
    assert (row.ended, row.failed, row.worse, row.last) == (1, 0, 0, (4,))
