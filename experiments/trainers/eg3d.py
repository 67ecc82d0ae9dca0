"""The official EG3D repository. Its data has a camera for each image, 25 numbers in dataset.json."""

from experiments.checked import Value
from experiments.files import UserError
from experiments.trainers.contract import Run
from experiments.trainers.official import Official

# Options of its train.py that are spelt with underscores; the others have hyphens, as in StyleGAN3.
UNDERSCORED = frozenset(
    "blur_fade_kimg d_num_fp16_res decoder_lr_mul density_reg density_reg_every density_reg_p_dist disc_c_noise "
    "g_num_fp16_res gen_pose_cond gpc_reg_fade_kimg gpc_reg_prob neural_rendering_resolution_fade_kimg "
    "neural_rendering_resolution_final neural_rendering_resolution_initial reg_type resume_blur sr_first_cutoff "
    "sr_first_stopband sr_noise_mode sr_num_fp16_res style_mixing_prob".split()
)


class EG3D(Official):
    name = "eg3d"
    host = "eg3d"

    @property
    def cwd(self) -> str:
        return "vendor/eg3d/eg3d"

    def spell(self, key: str, value: Value) -> str:
        """A table may use hyphens or underscores; the command gets the host's spelling."""
        underscored = key.replace("-", "_")
        return super().spell(underscored if underscored in UNDERSCORED else key.replace("_", "-"), value)

    def check(self, run: Run) -> None:
        if run.options.get("mirror"):
            raise UserError(
                f"run: row {run.row} must not mirror; got mirror = {run.options['mirror']}. EG3D's train.py flips "
                "images and leaves their cameras. Leave it out, and mirror images and cameras when the data is made."
            )
        super().check(run)


TRAINER = EG3D()
