"""experiments.trainers: the command lines that the adapters write, and what they read from the trainers' files."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch

from experiments.files import UserError
from experiments.metrics.base import is_stand_in
from experiments.trainers import TRAINERS
from experiments.trainers.contract import Run, Step, Tick, in_order, last_line, load_run, read_lines
from experiments.trainers.starts import is_whole_pickle
from experiments.trainers.stylegan3 import StyleGAN3

OFFICIAL = StyleGAN3()


def make_run(folder: Path, trainer: str = "stylegan3", **options) -> Run:
    return Run(
        table="t",
        preset="full",
        row="low",
        title="Low",
        trainer=trainer,
        mtm="low",
        seed=3,
        options={"mtm": "low", "kimg": 10, **options},
        dataset="d",
        metrics=["fid50k_full", "frechet"],
        samples_nimg=5,
        identity={"data": "cd" * 32},
        folder=folder,
        data=folder / "d.zip",
    )


def make_part(run: Run, number: int, kimgs: list[float], *, resumed: Path | None = None, name: str = "x") -> Path:
    """One start of train.py: its options, and a line of statistics for each kimg."""
    folder = run.train / f"{number:05d}-{name}"
    folder.mkdir(parents=True)
    (folder / "training_options.json").write_text(json.dumps({"resume_pkl": str(resumed)} if resumed else {}))
    stat = lambda mean: {"num": 1, "mean": mean, "std": 0.0}  # noqa: E731
    lines = [
        {"Progress/kimg": stat(k), "Timing/total_sec": stat(k * 2 + 1), "Timing/sec_per_kimg": stat(2.0),
         "Loss/G/loss": stat(k / 2), "Loss/pl_penalty": {"num": 0, "mean": float("nan"), "std": 0}}
        for k in kimgs
    ]  # fmt: skip
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def snap(part: Path, kimg: int, *, whole: bool = True, sidecar: bool = False) -> Path:
    path = part / f"network-snapshot-{kimg:06d}.pkl"
    data = pickle.dumps({"G": list(range(1000))})
    path.write_bytes(data if whole else data[: len(data) // 2])
    if sidecar:
        facts = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        torch.save({"pickle": facts}, part / f"training-state-{kimg:06d}.pt")
    return path


def words(step: Step) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in step.argv if word.startswith("--"))


def test_booleans_are_spelt_as_the_hosts_take_them(tmp_path):
    step = OFFICIAL.train_step(make_run(tmp_path, mirror=True, cond=False, gpus=2))
    assert step.argv[:2] == ["python", "train.py"]
    assert step.cwd == "vendor/stylegan3"
    assert {"mirror": "1", "cond": "0", "gpus": "2", "seed": "3", "kimg": "10"}.items() <= words(step).items()
    assert "resume" not in words(step)


def test_a_training_resumes_from_the_newest_whole_snapshot_with_a_sidecar_to_the_full_length(tmp_path):
    run = make_run(tmp_path)
    first = make_part(run, 0, [0.004, 2, 4, 6])
    for kimg in (0, 4):
        snap(first, kimg, sidecar=True)
    snap(first, 6, whole=False, sidecar=True)
    step = words(OFFICIAL.train_step(run))
    assert (step["resume"], step["kimg"]) == (str(first / "network-snapshot-000004.pkl"), "10")


@pytest.mark.parametrize("state", [None, b"", b"PK\x03\x04 cut off"])
def test_a_snapshot_whose_sidecar_is_missing_or_cut_off_gives_way_to_one_that_continues_exactly(tmp_path, state):
    run = make_run(tmp_path)
    part = make_part(run, 0, [0.004, 2, 4, 6])
    for kimg in (2, 4):
        snap(part, kimg, sidecar=True)
    snap(part, 6)
    if state is not None:
        (part / "training-state-000006.pt").write_bytes(state)
    assert words(OFFICIAL.train_step(run))["resume"] == str(part / "network-snapshot-000004.pkl")
    assert OFFICIAL.snapshot(run) == part / "network-snapshot-000006.pkl"


def test_without_a_sidecar_what_is_left_is_asked_for(tmp_path):
    run = make_run(tmp_path)
    first = make_part(run, 0, [0.004, 4])
    resumed = snap(first, 4)
    assert words(OFFICIAL.train_step(run))["kimg"] == "6"
    second = make_part(run, 1, [0.004, 3], resumed=resumed)
    snap(second, 3)
    step = words(OFFICIAL.train_step(run))
    assert (step["resume"], step["kimg"]) == (str(second / "network-snapshot-000003.pkl"), "3")
    assert OFFICIAL.progress(run).kimg == 7
    assert not OFFICIAL.progress(run).finished
    third = make_part(run, 2, [0.004, 3], resumed=second / "network-snapshot-000003.pkl")
    last = snap(third, 3)
    assert OFFICIAL.progress(run).finished
    assert OFFICIAL.snapshot(run) == last


def test_a_training_that_began_anew_once_goes_on_exactly_to_what_is_left(tmp_path):
    run = make_run(tmp_path)
    resumed = snap(make_part(run, 0, [0.004, 4]), 4)
    second = make_part(run, 1, [0.004, 3], resumed=resumed)
    exact = snap(second, 3, sidecar=True)
    step = OFFICIAL.train_step(run)
    assert (words(step)["resume"], words(step)["kimg"]) == (str(exact), "6")  # it counts from 3 kimg, which are 7 of 10
    assert "MTM_RESUME" not in step.env
    snap(make_part(run, 2, [3.004, 6], resumed=exact), 6)
    assert (OFFICIAL.progress(run).kimg, OFFICIAL.progress(run).finished) == (10, True)


def test_data_of_another_name_does_not_count_a_training_that_went_on_exactly_twice(tmp_path):
    run = make_run(tmp_path)
    exact = snap(make_part(run, 0, [0.004, 6], name="stylegan2-a-gpus1"), 6, sidecar=True)
    snap(make_part(run, 1, [6.004, 8], resumed=exact, name="stylegan2-b-gpus1"), 8, sidecar=True)
    assert (OFFICIAL.progress(run).kimg, OFFICIAL.progress(run).finished) == (8, False)
    assert words(OFFICIAL.train_step(run))["kimg"] == "10"


def test_ticks_after_a_snapshot_of_the_same_kimg_are_not_added_when_it_goes_on_exactly(tmp_path):
    run = make_run(tmp_path, kimg=0.064)
    exact = snap(make_part(run, 0, [0.004, 0.036]), 0, sidecar=True)  # from 0.004: killed before the next one
    make_part(run, 1, [0.036], resumed=exact)
    assert (OFFICIAL.progress(run).kimg, OFFICIAL.progress(run).finished) == (0.036, False)


@pytest.mark.parametrize("left", ["", '{"resume_pkl": "/a'])
def test_a_start_that_was_ended_while_it_wrote_its_options_stops_no_resume(tmp_path, left):
    run = make_run(tmp_path)
    exact = snap(make_part(run, 0, [0.004, 6]), 6, sidecar=True)
    broken = make_part(run, 1, [])
    (broken / "stats.jsonl").unlink()
    (broken / "training_options.json").write_text(left)
    assert words(OFFICIAL.train_step(run))["resume"] == str(exact)
    assert OFFICIAL.progress(run).kimg == 6


def test_a_first_snapshot_without_a_sidecar_is_no_better_than_a_beginning(tmp_path):
    run = make_run(tmp_path)
    snap(make_part(run, 0, [0.004]), 0)
    assert "resume" not in words(OFFICIAL.train_step(run))


def test_a_state_of_an_older_snapshot_of_the_same_name_is_not_gone_on_with(tmp_path):
    run = make_run(tmp_path, kimg=0.064)
    path = snap(make_part(run, 0, [0.004, 0.032]), 0, sidecar=True)
    assert words(OFFICIAL.train_step(run))["resume"] == str(path)
    path.write_bytes(pickle.dumps({"G": list(range(999, -1, -1))}))  # the same size
    assert "resume" not in words(OFFICIAL.train_step(run))


def test_a_fraction_of_a_kimg_is_asked_for_and_reached(tmp_path):
    run = make_run(tmp_path, kimg=0.064)
    step = OFFICIAL.train_step(run)
    assert (words(step)["kimg"], step.env["MTM_KIMG"]) == ("1", "0.064")
    assert "MTM_KIMG" not in OFFICIAL.train_step(make_run(tmp_path, kimg=2)).env
    part = make_part(run, 0, [0.004, 0.032])
    assert not OFFICIAL.progress(run).finished
    snap(part, 0, sidecar=True)
    assert not OFFICIAL.progress(run).finished
    snap(make_part(run, 1, [0.064], resumed=part / "network-snapshot-000000.pkl"), 0)
    assert OFFICIAL.progress(run).finished


def test_ticks_of_all_starts_are_one_curve_whether_they_count_on_or_anew(tmp_path):
    problems: list[str] = []
    exact = make_run(tmp_path / "exact")
    resumed = snap(make_part(exact, 0, [0.004, 2, 4, 6]), 4, sidecar=True)
    make_part(exact, 1, [6, 8], resumed=resumed)
    ticks = OFFICIAL.ticks(exact, problems)
    assert [tick.kimg for tick in ticks] == [0.004, 2, 4, 6, 8]
    assert [tick.elapsed_s for tick in ticks] == sorted(tick.elapsed_s or 0 for tick in ticks)
    assert ticks[1].curves == {"G_loss": 1.0}
    assert ticks[1].s_per_kimg == 2.0
    anew = make_run(tmp_path / "anew")
    resumed = snap(make_part(anew, 0, [0.004, 2, 4, 6]), 4)
    make_part(anew, 1, [0.004, 2], resumed=resumed)
    assert [tick.kimg for tick in OFFICIAL.ticks(anew, problems)] == [0.004, 2, 4, 4.004, 6]
    assert problems == []


def test_only_what_is_in_a_snapshot_is_saved(tmp_path):
    run = make_run(tmp_path)
    assert OFFICIAL.saved_kimg(run) == 0
    part = make_part(run, 0, [0.004, 8, 9])
    assert OFFICIAL.saved_kimg(run) == 0
    snap(part, 8, sidecar=True)
    assert (OFFICIAL.saved_kimg(run), OFFICIAL.progress(run).kimg) == (8, 9)


def test_damaged_statistics_are_reported_and_left_out(tmp_path):
    run = make_run(tmp_path)
    part = make_part(run, 0, [0.004, 2])
    with (part / "stats.jsonl").open("a") as file:
        file.write('[1]\n{"Progress/kimg": {"num": 1, "mean": NaN}}\n{torn')
    problems: list[str] = []
    assert [tick.kimg for tick in OFFICIAL.ticks(run, problems)] == [0.004, 2]
    assert [problem.split(": ")[1] for problem in problems] == [f"line {n} is damaged and was left out" for n in (3, 5)]
    assert OFFICIAL.progress(run).kimg == 0.0


@pytest.mark.parametrize("content", [b"", b"\x80\x04", pickle.dumps(list(range(9)))[:-1], b"<html>not found</html>"])
def test_what_is_no_whole_pickle_is_told_without_running_it(tmp_path, content):
    path = tmp_path / "network-snapshot-000001.pkl"
    path.write_bytes(content)
    assert not is_whole_pickle(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    assert is_whole_pickle(path)


def test_a_last_snapshot_that_was_cut_off_is_not_the_end(tmp_path):
    run = make_run(tmp_path)
    part = make_part(run, 0, [0.004, 8])
    snap(part, 8, sidecar=True)
    snap(part, 10, whole=False)
    assert not OFFICIAL.progress(run).finished
    assert OFFICIAL.steps(run)[0].name == "train"


def test_an_empty_last_snapshot_is_not_the_end(tmp_path):
    run = make_run(tmp_path)
    part = make_part(run, 0, [0.004, 10])
    snap(part, 8)
    (part / "network-snapshot-000010.pkl").write_bytes(b"")
    assert not OFFICIAL.progress(run).finished
    assert [step.name for step in OFFICIAL.steps(run)] == ["train", "metrics", "metrics", "images"]


def test_the_hosts_own_metrics_are_read_for_the_newest_snapshot(tmp_path):
    run = make_run(tmp_path)
    part = make_part(run, 0, [0.004, 10])
    snap(part, 10)
    steps = {tuple(step.argv[1:3]): step for step in OFFICIAL.steps(run)}
    theirs = next(step for step in steps.values() if step.argv[1] == "calc_metrics.py")
    assert words(theirs)["metrics"] == "fid50k_full"
    assert words(theirs)["network"] == str(part / "network-snapshot-000010.pkl")
    assert theirs.cwd == "vendor/stylegan3"
    assert [s.argv[3:6] for s in steps.values() if s.argv[2] == "experiments.metrics"] == [
        ["frechet", str(run.data), str(part / "network-snapshot-000010.pkl")]
    ]
    lines = [("000004", 9.0), ("000010", 8.0), ("000010", 7.5)]
    text = "".join(
        json.dumps({"results": {"fid50k_full": v}, "num_gpus": 1, "snapshot_pkl": f"network-snapshot-{s}.pkl"}) + "\n"
        for s, v in lines
    )
    (part / "metric-fid50k_full.jsonl").write_text(text)
    measured = OFFICIAL.measured(run)["fid50k_full"]
    assert measured.value == 7.5
    assert measured.fingerprint["data_sha256"] == "cd" * 32
    assert OFFICIAL.missing(run) == ["frechet"]
    (part / "metric-fid50k_full.jsonl").write_text(text.replace("7.5", '"abc"'))
    with pytest.raises(UserError, match=r"metric-fid50k_full.jsonl: value .* expected a number, got 'abc'"):
        OFFICIAL.measured(run)


def test_our_metric_in_the_host_keeps_the_fingerprint_of_its_line(tmp_path):
    run = make_run(tmp_path).model_copy(update={"metrics": ["clip_fd50k_full"]})
    part = make_part(run, 0, [10])
    snapshot = snap(part, 10).name
    taken = {"weights": "stand-in", "weights_sha256": "ab" * 32, "generated_nimg": 50000}
    line = {"results": {"clip_fd50k_full": 7.5}, "num_gpus": 2, "snapshot_pkl": snapshot, "fingerprint": taken}
    (part / "metric-clip_fd50k_full.jsonl").write_text(json.dumps(line) + "\n")
    measured = OFFICIAL.measured(run)["clip_fd50k_full"]
    facts = {"metric": "clip_fd50k_full", "code": "stylegan3", "num_gpus": 2, "data_sha256": "cd" * 32}
    assert measured.fingerprint == {**facts, **taken}
    assert is_stand_in(measured.fingerprint)
    assert OFFICIAL.missing(run) == []  # samples_nimg is 5, but the host fixes the number


def test_a_training_that_takes_metrics_keeps_its_random_numbers(tmp_path):
    for trainer in ("stylegan3", "eg3d", "stylegan-v", "stylesv"):
        step = TRAINERS[trainer].train_step(make_run(tmp_path, trainer, metrics="clip_fd50k_full"))
        assert step.env["MTM_ISOLATE_METRICS"] == "1"
        assert {"--metrics=clip_fd50k_full", "training.metrics=[clip_fd50k_full]"} & set(step.argv), trainer
        for none in ({}, {"metrics": "none"}):
            assert "MTM_ISOLATE_METRICS" not in TRAINERS[trainer].train_step(make_run(tmp_path, trainer, **none)).env


def test_a_metric_of_another_number_of_images_is_taken_again(tmp_path):
    run = make_run(tmp_path, trainer="mini")
    (tmp_path / "metrics").mkdir()
    for nimg, missing in ((5, []), (50, ["frechet"])):
        for key in ("generated_nimg", "generated_nclip"):
            content = {"value": 1.0, "fingerprint": {key: nimg}}
            (tmp_path / "metrics/frechet.json").write_text(json.dumps(content))
            assert [name for name in TRAINERS["mini"].missing(run) if name == "frechet"] == missing


def test_parameters_and_options_are_read_from_log_and_options(tmp_path):
    run = make_run(tmp_path)
    part = make_part(run, 0, [])
    (part / "log.txt").write_text(
        "Generator  Parameters\n---  ---\nTotal      1234567     89  -  -\n\nTotal   5  -  -\n"
    )
    assert OFFICIAL.facts(run)["generator_parameters"] == 1234567


def test_a_host_that_is_not_there_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(StyleGAN3, "host", "stylegan4")
    with pytest.raises(UserError, match=r"vendor/stylegan4 must be fetched.*make patch HOST=stylegan4"):
        OFFICIAL.check(make_run(tmp_path))


def test_a_host_without_the_mtm_patch_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(StyleGAN3, "cwd", str(tmp_path))  # an absolute path: this codebase exists
    (tmp_path / "train.py").touch()
    run = make_run(tmp_path)
    with pytest.raises(UserError, match=r"must be patched with mtm; got no patch applied whole. Run: make patch"):
        OFFICIAL.check(run)
    OFFICIAL.check(run.model_copy(update={"identity": {"host": {"patches": {"mtm": "ab"}}}}))


def test_a_step_is_a_line_that_a_shell_reads_back():
    step = Step(
        name="train",
        argv=["python", "t.py", "--data=my $x 'y'.zip", "00000-*/a.pkl"],
        cwd="vendor/x y",
        env={"A": "1 2"},
    )
    assert step.text() == "(cd 'vendor/x y' && A='1 2' python t.py '--data=my $x '\"'\"'y'\"'\"'.zip' 00000-*/a.pkl)"


def test_the_last_line_is_found_without_what_is_torn(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_text('{"kimg": 1}\n{"kimg": 2}\n{"kimg": 3')
    assert last_line(path) == {"kimg": 2}
    assert last_line(tmp_path / "none") == {}
    problems: list[str] = []
    assert read_lines(path, problems) == [{"kimg": 1}, {"kimg": 2}]
    assert len(problems) == 1


def test_ticks_repeated_by_a_resume_count_once():
    ticks = [Tick(kimg=k, curves={"a": float(i)}) for i, k in enumerate([1.0, 2.0, 1.5, 2.0])]
    assert [(tick.kimg, tick.curves["a"]) for tick in in_order(ticks)] == [(1.0, 0.0), (1.5, 2.0), (2.0, 3.0)]


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(run.written()))
    assert load_run(tmp_path, run.data) == run
    (tmp_path / "run.json").write_text(json.dumps(run.written() | {"seed": "three", "sead": 3}))
    with pytest.raises(UserError, match=r"run.json must have known keys only; .* got sead(.|\n)*seed .* expected int"):
        load_run(tmp_path)
