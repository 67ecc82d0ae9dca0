"""StyleSV continues exactly if a training state lies next to the pickle, including its data loaders."""

from pathlib import Path

import pytest
import torch
from lab import PKL, assert_equal, assert_same_training
from stylesv_lab import options


@pytest.mark.parametrize(("workers", "skip"), [(1, 3), (2, 3), (3, 7)])
def test_data_loaders_that_continue_read_the_same_frames(stylesv, clips, tmp_path, workers, skip):
    words = options(2, clips, tmp_path)
    straight, later = stylesv["patched"].probe("clips_read", words=words, workers=workers, skip=skip, batches=skip + 4)
    assert_equal(straight, later)
    assert len({tuple(times.tolist()) for batch in straight for times in batch["times"]}) > 4


def test_a_stopped_training_goes_on_to_the_bit(stylesv, clips, tmp_path):
    """In stage 2, which draws frames, motion and augmentations at random."""

    def train(name, **more):
        part = {"iterations": 2, "tick": 1, "stop": more.pop("stop", None)}
        more |= {"training.aug": "ada", "training.target": 0.6, "training.augpipe": "bgc", "training.num_workers": 2}
        return stylesv["patched"].probe("train_part", words=options(2, clips, tmp_path / name, **more), **part)

    straight, stopped = train("straight"), train("stopped", stop=1)
    kept = torch.load(Path(stopped, "training-state-000000.pt"), weights_only=True)
    assert (kept["counters"]["batch_idx"], kept["counters"]["cur_nimg"]) == (1, 3)
    resumed = train("resumed", **{"training.resume": f"{stopped}/{PKL}"})
    assert_same_training(stylesv["patched"], straight, resumed)
