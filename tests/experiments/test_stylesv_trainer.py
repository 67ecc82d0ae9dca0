"""StyleSV's adapter: the command line for each stage, and how it resumes."""

import pytest
from test_trainers import make_run, snap

from experiments.files import UserError
from experiments.trainers.stylesv import StyleSV

SV = StyleSV()
TINY = {"resolution": 128, "batch": 1, "workers": 1, "snap": 1, "fp32": True, "mirror": False, "threads": 1}
TINY |= {"model.generator.fmaps": 0.0625, "model.discriminator.fmaps": 0.0078125, "stage1.aug": "noaug"}
TWO = {"stage1-kimg": 4, "kimg": 10, **TINY}


def words(step):
    return dict(word.split("=", 1) for word in step.argv[2:])


def make_start(run, number, stage, begun_kimg, kimgs, resumed=None):
    """The files that launch.py and train.py leave after one start."""
    output = run.train / f"{number:05d}-stage{stage}" / "output"
    output.mkdir(parents=True)
    (output / "training_options.json").write_text(f'{{"resume_pkl": "{resumed}"}}' if resumed else "{}")
    stat = '{"Progress/kimg": {"num": 1, "mean": %s, "std": 0}, "Timing/total_sec": {"num": 1, "mean": 1, "std": 0}}\n'
    (output / "stats.jsonl").write_text("".join(stat % kimg for kimg in (begun_kimg, *kimgs)))
    return [snap(output, kimg, sidecar=True) for kimg in kimgs][-1] if kimgs else None


def test_one_stage_is_what_the_row_says(tmp_path):
    step = SV.train_step(make_run(tmp_path, "stylesv", mtm="low,mid", **TINY))
    said = words(step)
    assert step.argv[:2] == ["python", "src/infra/launch.py"]
    assert (step.cwd, step.env) == ("vendor/stylesv", {"OMP_NUM_THREADS": "1"})
    expected = {"mtm": "[low,mid]", "training.kimg": "10", "training.seed": "3", "training.metrics": "[]"}
    expected |= {"dataset.resolution": "128", "training.fp32": "true", "model.generator.fmaps": "0.0625"}
    expected |= {"project_release_dir": f"{tmp_path}/train/00000-stylesv", "dataset.path": f"{tmp_path}/d.zip"}
    assert expected.items() <= said.items()


def test_stage_1_comes_first_and_hands_its_weights_over_to_stage_2(tmp_path):
    run = make_run(tmp_path, "stylesv", **TWO)
    first = SV.train_step(run)
    expected = {"sampling.num_frames_per_video": "1", "training.kimg": "4", "model.discriminator.tsm": "false"}
    assert {**expected, "training.aug": "noaug", "model.loss_kwargs.r1_gamma": "0.5"}.items() <= words(first).items()

    last = make_start(run, 0, 1, 0.001, [2, 4])
    assert (SV.progress(run).kimg, SV.progress(run).finished) == (4, False)
    second = SV.train_step(run)
    expected = {"sampling.num_frames_per_video": "3", "training.kimg": "6", "model.discriminator.tsm": "true"}
    expected |= {"training.resume": str(last), "training.aug": "noaug", "model.loss_kwargs.r1_gamma": "8"}
    expected["project_release_dir"] = f"{tmp_path}/train/00001-stage2"
    assert expected.items() <= words(second).items()
    assert second.env["MTM_RESUME"] == "weights"
    assert first.argv[:3] != second.argv[:3], "the runner takes equal ones for a training that wrote nothing"

    done = make_start(run, 1, 2, 0.003, [3, 6], last)
    assert (SV.progress(run).kimg, SV.progress(run).finished, SV.snapshot(run)) == (10, True, done)
    assert [tick.kimg for tick in SV.ticks(run, [])] == [0.001, 2, 4, 4.003, 7, 10]


def test_a_second_stage_that_was_interrupted_is_counted_from_where_the_stage_began(tmp_path):
    run = make_run(tmp_path, "stylesv", **TWO)
    first = make_start(run, 0, 1, 0.001, [4])
    broken = make_start(run, 1, 2, 0.003, [2, 3], first)
    make_start(run, 2, 2, 3.003, [5], broken)
    assert (SV.progress(run).kimg, SV.progress(run).finished) == (9, False)
    assert [tick.kimg for tick in SV.ticks(run, [])] == [0.001, 4, 4.003, 6, 7, 7.003, 9]
    assert words(SV.train_step(run))["training.kimg"] == "6"  # of this stage
    make_start(run, 3, 2, 5.003, [6], run.train / "00002-stage2/output/network-snapshot-000005.pkl")
    assert (SV.progress(run).kimg, SV.progress(run).finished) == (10, True)


def test_stages_may_be_shorter_than_a_kimg(tmp_path):
    run = make_run(tmp_path, "stylesv", **TINY)
    run = run.model_copy(update={"options": {**run.options, "stage1-kimg": 0.002, "kimg": 0.011}})
    assert SV.train_step(run).env["MTM_KIMG"] == "0.002"
    first = make_fraction(run, 0, 1, [0.001, 0.002])
    second = SV.train_step(run)
    assert words(second)["project_release_dir"].endswith("00001-stage2")
    assert (second.env["MTM_KIMG"], second.env["MTM_RESUME"]) == ("0.009", "weights")
    broken = make_fraction(run, 1, 2, [0.003], first)
    assert SV.progress(run).kimg == pytest.approx(0.005)
    third = SV.train_step(run)
    assert (third.env["MTM_KIMG"], words(third)["training.resume"]) == ("0.009", str(broken))
    make_fraction(run, 2, 2, [0.006, 0.009], broken)
    assert SV.progress(run).kimg == pytest.approx(0.011)
    assert SV.progress(run).finished


def make_fraction(run, number, stage, kimgs, resumed=None):
    """As make_start, but every tick rewrites the snapshot of 0 kimg."""
    output = run.train / f"{number:05d}-stage{stage}" / "output"
    make_start(run, number, stage, kimgs[0], [], resumed)
    if kimgs[1:]:
        stat = '{"Progress/kimg": {"num": 1, "mean": %s, "std": 0}}\n'
        with (output / "stats.jsonl").open("a") as file:
            file.write("".join(stat % kimg for kimg in kimgs[1:]))
    return snap(output, 0, sidecar=True)


@pytest.mark.parametrize(("first", "both"), [(4, 3.5), (4, 4), (4, None)])
def test_stages_that_do_not_add_up_are_refused(tmp_path, first, both):
    run = make_run(tmp_path, "stylesv", **TINY)
    options = {**run.options, "stage1-kimg": first, "kimg": both}
    with pytest.raises(UserError, match=f"must have more kimg in both .* got stage1-kimg = {first}, kimg = {both}"):
        SV.check(run.model_copy(update={"options": options}))


def test_without_a_first_stage_the_second_is_trained_alone(tmp_path):
    run = make_run(tmp_path, "stylesv", **TINY)
    options = {**run.options, "stage1-kimg": 0, "kimg": 0.003}
    step = SV.train_step(run.model_copy(update={"options": options}))
    expected = {"sampling.num_frames_per_video": "3", "model.loss_kwargs.r1_gamma": "8", "training.aug": "noaug"}
    expected |= {"model.discriminator.tsm": "true", "training.kimg": "1"}
    assert expected.items() <= words(step).items()
    assert not any("stage1" in word for word in step.argv)
    assert step.env["MTM_KIMG"] == "0.003"


@pytest.mark.parametrize(("stage", "kimg"), [(1, "4"), (2, "6")])
def test_an_interrupted_stage_goes_on_exactly(tmp_path, stage, kimg):
    run = make_run(tmp_path, "stylesv", **TWO)
    if stage == 1:
        last = make_start(run, 0, 1, 0.001, [2])
    else:
        last = make_start(run, 1, 2, 0.003, [3], make_start(run, 0, 1, 0.001, [4]))
    said = words(SV.train_step(run))
    assert (said["training.resume"], said["training.kimg"]) == (str(last), kimg)
    assert said["project_release_dir"].endswith(f"-stage{stage}")
    assert "MTM_RESUME" not in SV.train_step(run).env


def test_metrics_of_the_host_are_asked_of_its_own_script(tmp_path):
    run = make_run(tmp_path, "stylesv", **TINY)
    step = next(SV.metric_steps(run, "a.pkl", ["fvd2048_16f", "fid50k_full"]))
    assert step.argv[1:4] == ["src/scripts/calc_metrics.py", "--network_pkl=a.pkl", "--metrics=fvd2048_16f,fid50k_full"]
