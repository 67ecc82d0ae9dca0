"""Options for training the official StyleSV at test size."""

STAGES = {  # as in the official scripts, except for sizes
    1: {"sampling.num_frames_per_video": 1, "model.loss_kwargs.r1_gamma": 0.5},
    2: {
        "sampling.num_frames_per_video": 3,
        "model.generator.learnable_motion_mask": True,
        "model.discriminator.tsm": True,
        "model.loss_kwargs.r1_gamma": 8,
    },
}


def options(stage, clips, folder, **more):
    """Arguments of launch.py, for a network far too small to learn anything. Double underscores stand for dots."""
    words = {
        "dataset": "sky_timelapse",
        "dataset.path": clips,
        "dataset.resolution": 128,
        "project_release_dir": folder,
        "num_gpus": 1,
        "model.generator.fmaps": 0.0625,
        "model.discriminator.fmaps": 0.0078125,  # the generator needs at least 512 channels
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
