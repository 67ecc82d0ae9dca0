"""The official StyleSV's options, at the size of the tests."""

STAGES = {  # as in the official scripts, but for sizes
    1: {"sampling.num_frames_per_video": 1, "model.loss_kwargs.r1_gamma": 0.5},
    2: {
        "sampling.num_frames_per_video": 3,
        "model.generator.learnable_motion_mask": True,
        "model.discriminator.tsm": True,
        "model.loss_kwargs.r1_gamma": 8,
    },
}


def options(stage, clips, folder, **more):
    """What launch.py takes, for a network that is far too small to learn anything; double underscores are dots."""
    words = {
        "dataset": "sky_timelapse",
        "dataset.path": clips,
        "dataset.resolution": 128,
        "project_release_dir": folder,
        "num_gpus": 1,
        "model.generator.fmaps": 0.0625,
        "model.discriminator.fmaps": 0.0078125,  # the generator needs 512 channels at the least
        "model.generator.time_enc.min_period_len": 256,
        "model.discriminator.tmean": True,
        "training.mirror": False,
        "training.batch_size": 1,
        "training.num_workers": 1,
        "training.aug": "noaug",
        "training.snap": 1,
        "training.kimg": 1,
        "training.fp32": True,  # half precision is slow on a CPU
        "training.seed": 5,
        **STAGES[stage],
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return [f"{name}={value}" for name, value in words.items()]
