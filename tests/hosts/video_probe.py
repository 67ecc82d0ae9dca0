"""Probes that the two video hosts share, in addition to official_probe.py. Hydra composes their training options.

Their `arguments` are ["--outdir", FOLDER, Hydra overrides ...]. The run's folder is FOLDER/output.
"""

import contextlib
import io
import json
import os
import pickle
import sys
import tempfile
import traceback
from pathlib import Path
from unittest.mock import patch

import torch
from official_probe import Probe
from probe_lab import Stopped, tensors

METRICS = """
from src.metrics import frechet_inception_distance, frechet_video_distance


def register(register_metric):
    register_metric(fvd_few)
    register_metric(fid_few)


def fvd_few(opts):
    opts.dataset_kwargs.update(xflip=False, max_size=None)
    return dict(fvd_few=frechet_video_distance.compute_fvd(opts, max_real=64, num_gen=12, num_frames=16))


def fid_few(opts):
    opts.dataset_kwargs.update(xflip=False, max_size=None)
    return dict(fid_few=frechet_inception_distance.compute_fid(opts, max_real=None, num_gen=64))
"""


class Clips(torch.nn.Module):
    """A stand-in for I3D: uint8 [N, C, T, H, W] to features."""

    def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = True):
        return torch.nn.functional.adaptive_avg_pool3d(x.float(), [2, 1, 1]).flatten(1)


class Frames(torch.nn.Module):
    """A stand-in for Inception: uint8 [N, C, H, W] to features."""

    def forward(self, x, return_features: bool = True):
        return torch.nn.functional.adaptive_avg_pool2d(x.float(), 1).flatten(1)


class VideoProbe(Probe):
    def run(self):
        here = os.getcwd()
        sys.path += [here, os.path.join(here, "src")]  # as the scripts do
        super().run()

    def _config(self, arguments):
        """Save the configuration that launch.py would make of the overrides in `outdir`, and change to that folder.

        train.py looks for it in the working directory.
        """
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf

        _, outdir, *overrides = arguments
        here = os.getcwd()
        places = [f"project_release_dir={outdir}", f"env.project_path={here}", "git_hash=none"]
        with initialize_config_dir(os.path.join(here, "configs"), version_base="1.1"):
            cfg = compose("config.yaml", overrides=[*overrides, *places])
        os.makedirs(outdir, exist_ok=True)
        partial = Path(outdir, f"rank{os.environ.get('RANK', '')}.yaml")
        OmegaConf.save(cfg, partial)
        os.chdir(outdir)
        partial.replace("experiment_config.yaml")  # every rank writes the same file

    def _small_training(self, iterations, tick=None, stop=None, **options):
        """As in official_probe, but the concern cpu makes the previews small, and iterations count videos.

        Data loaders fork, because a spawned worker would import torch again.
        """
        probe, initial = self, {}

        class Trainer:
            def main(self, arguments, standalone_mode=False):
                probe._config(arguments)
                import train

                loop = train.training_loop
                whole, show = loop.training_loop, loop.misc.print_module_summary

                def few(**c):
                    frames = c["batch_size"] * c["cfg"].sampling.num_frames_per_video
                    c["total_kimg"] = iterations * frames / 1000
                    if tick:
                        c["kimg_per_tick"] = tick * frames / 1000
                    whole(**{**c, **options})

                def summary(module, arguments):
                    initial.setdefault(type(module).__name__, tensors(module))
                    # Upstream passes uninitialised latents, so the running mean of w would differ in every run.
                    return show(module, [torch.zeros_like(arguments[0]), *arguments[1:]])

                with contextlib.ExitStack() as patches:
                    patches.enter_context(patch.object(loop, "training_loop", few))
                    patches.enter_context(patch.object(loop.misc, "print_module_summary", summary))
                    patches.enter_context(patch.object(torch.multiprocessing, "set_start_method"))
                    if stop:
                        patches.enter_context(_stopping(loop.dnnlib.mtm_hosts.resume, stop))
                    train.main()

        return Trainer(), initial

    def several(self, of, calls):
        """The results of the probe `of` for each of `calls`, one after the other. Each call runs in a fork.

        A call inherits the imports, which take most of the time of a short training, but nothing from earlier calls.
        """
        import torch._dynamo
        import train  # noqa: F401

        results = []
        for call in calls:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "result.pt")
                child = os.fork()
                if child == 0:
                    self._call_and_exit(of, call, path)
                if os.waitpid(child, 0)[1] != 0:
                    raise SystemExit(f"{of} failed for {call}")
                results.append(torch.load(path, weights_only=False))
        return results

    def _call_and_exit(self, name, call, path):
        code = 1
        try:
            torch.save(getattr(self, name)(**call), path)
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            sys.__stdout__.flush()
            sys.__stderr__.flush()
            os._exit(code)

    def train_few(self, arguments, iterations):
        trainer, initial = self._small_training(iterations)
        trainer.main(arguments)
        run = os.path.join(arguments[1], "output")
        with open(os.path.join(run, "network-snapshot-000000.pkl"), "rb") as f:
            data = pickle.load(f)
        options = Path(run, "training_options.json")
        return {
            "initial": initial, "trained": {k: tensors(data[k]) for k in ("G", "D", "G_ema")}, "run": run,
            "options": json.loads(options.read_text()) if options.exists() else None,
            "init_kwargs": json.loads(json.dumps(data["G"].init_kwargs, default=str)),
            "files": sorted(os.listdir(run)), "mtm_ops": "mtm_ops" in sys.modules,
        }  # fmt: skip

    def stand_ins(self, folder):
        """Tiny detectors, and the host's own metrics on few videos; returns the environment that selects them."""
        torch.jit.script(Clips()).save(os.path.join(folder, "i3d_torchscript.pt"))
        torch.jit.script(Frames()).save(os.path.join(folder, "inception-2015-12-05.pt"))
        Path(folder, "few_metrics.py").write_text(METRICS)
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {"MTM_DETECTORS": folder, "MTM_METRICS": "few_metrics", "PYTHONPATH": os.pathsep.join(paths)}
        return {**env, "DNNLIB_CACHE_DIR": os.path.join(folder, "cache")}

    def options(self, argument_lists):
        """Dry runs of train.py: what each prints, or its error."""
        out, here = [], os.getcwd()
        for arguments in argument_lists:
            os.chdir(here)
            said, keep = io.StringIO(), (sys.stdout, sys.stderr)
            try:
                with contextlib.redirect_stdout(said):
                    self._config([*arguments, "training.dry_run=true"])
                    import train

                    train.main()
            except SystemExit as error:
                said.write(str(error))
            sys.stdout, sys.stderr = keep
            out.append(said.getvalue())
        return out


def _stopping(resume, stop):
    """End the training, as if killed, once it has saved `stop` iterations."""
    save = resume.save

    def save_and_stop(names):
        save(names)
        if names["batch_idx"] == stop:
            raise Stopped

    return patch.object(resume, "save", save_and_stop)
