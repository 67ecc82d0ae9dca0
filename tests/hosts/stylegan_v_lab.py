"""Configuration for training the official StyleGAN-V at test size."""

WORDS = """
dataset=sky_timelapse dataset.resolution=128 dataset.max_num_frames=64 num_gpus=1 training.kimg=1 training.snap=1
training.batch_size=2 training.fp32=true training.metrics=[] training.aug=noaug training.target=null
training.augpipe=null training.num_workers=1 training.seed=5 training.mirror=false
model.generator.w_dim=16 model.generator.z_dim=16 model.generator.motion.z_dim=16 model.generator.motion.v_dim=16
model.generator.time_enc.dim=8 +model.generator.fmaps=0.0078125 +model.discriminator.fmaps=0.0078125
+model.generator.channel_max=8 +model.discriminator.channel_max=8
"""
ADA = ("training.aug=ada", "training.target=0.6", "training.augpipe=bgc")


def overrides(clips, *more):
    """Overrides for launch.py, for networks far too small to learn anything."""
    return [*WORDS.split(), f"dataset.path={clips}", *more]


def arguments(clips, outdir, *more):
    """Arguments for the training probes."""
    return ["--outdir", str(outdir), *overrides(clips, *more)]
