"""Probes shared by the hosts that have the same train.py, calc_metrics.py and legacy.py. See probe_lab.py.

A host subclasses Probe, defines how its networks are built, called and shrunk, and runs the result.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import sys
import warnings

import torch
from probe_lab import Stopped, grow, main, metric, pickled, stub_pkg_resources, tensors


class Probe:
    """Every public method is a probe. Hosts add more."""

    def build(self, kind, seed=3, **options):
        """A tiny generator of the given kind."""
        raise NotImplementedError

    def inputs(self, G, batch=2):
        """(z, c)."""
        raise NotImplementedError

    def draw(self, G, z, c):
        """Images [N, C, H, W], the same for every call."""
        return G(z, c, noise_mode="const")

    def discriminator(self, G):
        """The stand-in for the discriminator in a snapshot. legacy.py rebuilds each network in half precision."""
        return G

    def shrink(self, c):
        """Make a training's options smaller than the command line allows; returns them."""
        return c

    def run(self):
        main({name: getattr(self, name) for name in dir(self) if not name.startswith("_")})

    metric = staticmethod(metric)

    def with_environment(self, env, of, **arguments):
        """The result of the probe `of`, with `env` added to the environment."""
        os.environ.update(env)
        return getattr(self, of)(**arguments)

    def pickled(self, paths):
        return [pickled(path) for path in paths]

    def networks(self, kinds, **options):
        """Fresh generators: parameters, buffers, random stream after construction, images and gradients."""
        stub_pkg_resources()
        out = {}
        for kind in kinds:
            G = self.build(kind, **options)
            stream = torch.randn(4)
            z, c = self.inputs(G)
            G.train()
            image = self.draw(G, z, c)
            names, params = zip(*G.named_parameters(), strict=True)
            grads = torch.autograd.grad(image.square().sum(), params, allow_unused=True)
            fresh = tensors(G)
            empty = self.draw(G, torch.full_like(z, torch.nan), c)  # NaN may reach a running mean of w
            out[kind] = {
                "tensors": fresh, "stream": stream, "image": image.detach(), "nan_shape": list(empty.shape),
                "grads": {n: g for n, g in zip(names, grads, strict=True) if g is not None},
                "modules": [n for n, m in G.named_modules() if n.endswith(".mtm")],
                "init_kwargs": json.loads(json.dumps(G.init_kwargs, default=str)),
            }  # fmt: skip
        return {"kinds": out, "mtm_ops": "mtm_ops" in sys.modules}

    def _small_training(self, iterations, tick=None, stop=None, **options):
        """Make train.py's own main train for a few iterations and draw four samples instead of a thousand.

        tick: iterations per tick. stop: end as if killed after saving this many iterations. options: for the loop.
        """
        import train

        loop = train.training_loop
        whole, grid = loop.training_loop, loop.setup_snapshot_image_grid
        initial = {}

        def small_grid(training_set, random_seed=0):
            _, images, labels = grid(training_set, random_seed)
            return (2, 2), images[:4], labels[:4]

        def few(**c):
            self.shrink(c)
            c["total_kimg"] = iterations * c["batch_size"] / 1000
            if tick:
                c["kimg_per_tick"] = tick * c["batch_size"] / 1000
            whole(**{**c, **options})

        def summary(module, arguments, show=loop.misc.print_module_summary):
            initial.setdefault(type(module).__name__, tensors(module))
            return show(module, arguments)

        loop.training_loop, loop.setup_snapshot_image_grid, loop.misc.print_module_summary = few, small_grid, summary
        # Let data loaders fork: a spawned worker would import torch again.
        torch.multiprocessing.set_start_method = lambda method: None
        self._shrink_before_building(loop)
        if stop:
            resume = loop.dnnlib.mtm_hosts.resume
            save = resume.save

            def save_and_stop(names):
                save(names)
                if names["batch_idx"] == stop:
                    raise Stopped

            resume.save = save_and_stop
        return train, initial

    def _shrink_before_building(self, loop):
        """Shrink the options earlier, because the concern mtm builds the generator once before the loop does."""
        if hasattr(getattr(loop.dnnlib, "mtm_hosts", None), "mtm"):
            mtm = loop.dnnlib.mtm_hosts.mtm
            built = mtm._built
            mtm._built = lambda c: built(self.shrink(c))

    def train_part(self, arguments, **part):
        """Run a training that may stop in the middle; returns its folder."""
        random.seed(0)  # the hosts do not seed Python's random stream, and its state is saved too
        with contextlib.suppress(Stopped):
            self._small_training(**part)[0].main(arguments, standalone_mode=False)
        return _newest_run(arguments)

    def train_few(self, arguments, iterations):
        train, initial = self._small_training(iterations)
        train.main(arguments, standalone_mode=False)
        run = _newest_run(arguments)
        with open(os.path.join(run, "network-snapshot-000000.pkl"), "rb") as f:
            data = pickle.load(f)
        with open(os.path.join(run, "training_options.json")) as f:
            options = json.load(f)
        return {
            "initial": initial, "trained": {k: tensors(data[k]) for k in ("G", "D", "G_ema")}, "options": options,
            "files": sorted(os.listdir(run)), "runs": sorted(os.listdir(os.path.dirname(run))), "run": run,
            "init_kwargs": json.loads(json.dumps(data["G"].init_kwargs)), "mtm_ops": "mtm_ops" in sys.modules,
        }  # fmt: skip

    def train_rank(self, arguments, iterations):
        """One rank of a torchrun: a digest of its final state."""
        import torch.distributed as dist

        train, _ = self._small_training(iterations)
        digest = io.BytesIO()
        step = torch.optim.Adam.step

        def watched(self, *a, **k):
            done = step(self, *a, **k)
            digest.write(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for g in self.param_groups
                                                 for p in g["params"])).digest())  # fmt: skip
            return done

        torch.optim.Adam.step = watched
        destroy, rank = dist.destroy_process_group, int(os.environ["RANK"])
        seen = {}
        dist.destroy_process_group = lambda *a: (seen.update(world=dist.get_world_size()), destroy(*a))
        train.main(arguments, standalone_mode=False)
        return {"digest": digest.getvalue(), "rank": rank, **seen}

    def snapshot(self, path, kind, head):
        """Write a snapshot of a generator with grown MTM, as the training loop does; returns what it draws."""
        G = grow(self.build(kind, mtm="low", mtm_head=head)).eval().requires_grad_(False)
        image = self.draw(G, *self.inputs(G))
        with open(path, "wb") as f:
            networks = {"G": G, "D": self.discriminator(G), "G_ema": G, "augment_pipe": None}
            pickle.dump({**networks, "training_set_kwargs": {}}, f)
        return {"image": image}

    def load_elsewhere(self, path):
        """Read a snapshot with this checkout's legacy.py while neither of our packages can be imported."""
        stub_pkg_resources()
        sys.modules["mtm_ops"] = sys.modules["mtm_hosts"] = None
        import legacy

        with open(path, "rb") as f, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            G = legacy.load_network_pkl(f)["G_ema"]
            image = self.draw(G, *self.inputs(G))
        errors = {}
        for name, build_anew in (
            ("rebuilt", lambda: type(G)(*G.init_args, **G.init_kwargs)),
            ("halves", lambda: legacy.load_network_pkl(open(path, "rb"), force_fp16=True)),  # noqa: SIM115
        ):
            try:
                build_anew()
            except (ModuleNotFoundError, TypeError) as e:
                errors[name] = str(e)
        return {"image": image, "warnings": [str(w.message) for w in caught], **errors, "again": len(pickle.dumps(G))}

    def load_here(self, path):
        """Read a snapshot with a patched checkout's legacy.py, and rebuild the network with the parameters copied."""
        import legacy
        from torch_utils import misc

        with open(path, "rb") as f:
            G = legacy.load_network_pkl(f)["G_ema"]
        z, c = self.inputs(G)
        rebuilt = type(G)(*G.init_args, **G.init_kwargs).eval().requires_grad_(False)
        misc.copy_params_and_buffers(G, rebuilt, require_all=True)
        from mtm_ops import offsets_disabled

        with offsets_disabled(G):
            straight = self.draw(G, z, c)
        with open(path, "rb") as f:
            halves = legacy.load_network_pkl(f, force_fp16=True)["G_ema"]
        names, halves = ([n for n, _ in g.named_parameters() if ".mtm." in n] for g in (G, halves))
        return {
            "names": names,
            "halves": halves,
            "image": self.draw(G, z, c),
            "rebuilt": self.draw(rebuilt, z, c),
            "straight": straight,
        }

    def copies(self, kind, more="low"):
        """Copy checkpoints between networks with and without MTM. `more` is low plus a resolution to add."""
        from torch_utils import misc

        def copy(source, target):
            try:
                misc.copy_params_and_buffers(source, target.requires_grad_(False))
            except ValueError as error:
                return str(error)
            return ""

        plain, low = self.build(kind), grow(self.build(kind, mtm="low"))
        both = grow(self.build(kind, mtm="low", mtm_head="offset+mask"))
        fresh = self.build(kind, seed=4, mtm="low")
        before = {n: t for n, t in tensors(fresh).items() if ".mtm." in n}
        result = {"into_mtm": copy(plain, fresh)}
        result["mtm_kept"] = all(torch.equal(t, before[n]) for n, t in tensors(fresh).items() if n in before)
        z, c = self.inputs(plain)
        result["images"] = [self.draw(G.eval(), z, c).detach() for G in (plain, fresh)]
        result["into_plain"] = copy(low, self.build(kind))
        result["other_head"] = copy(both, self.build(kind, mtm="low"))
        result["same"] = copy(low, self.build(kind, mtm="low"))
        result["more"] = copy(low, self.build(kind, mtm=more))
        return result

    def layers(self, requests):
        """For each (kind, options): the layers that get the module, or the error."""
        out = []
        for kind, options in requests:
            try:
                G = self.build(kind, **options)
                out.append([n for n, m in G.named_modules() if n.endswith(".mtm")])
            except (ValueError, TypeError) as error:
                out.append(str(error))
        return out

    def equivalence(self, kinds):
        """Layers with offsets turned off against the host's own convolution, with grown parameters."""
        from mtm_ops import offsets_disabled

        out = {}
        for kind in kinds:
            G = grow(self.build(kind, mtm="low")).eval()
            plain = self.build(kind).eval()
            z, c = self.inputs(G)
            with offsets_disabled(G):
                off = self.draw(G, z, c).detach()
            out[kind] = [self.draw(plain, z, c).detach(), off, self.draw(G, z, c).detach()]
        return out

    def options(self, argument_lists):
        """Dry runs of train.py: what each prints, or its error."""
        import click
        import train

        self._shrink_before_building(train.training_loop)
        out = []
        for arguments in argument_lists:
            said = io.StringIO()
            keep = sys.stdout, sys.stderr
            try:
                with contextlib.redirect_stdout(said):
                    train.main([*arguments, "--dry-run"], standalone_mode=False)
            except (click.ClickException, SystemExit) as error:
                said.write(str(error))
            sys.stdout, sys.stderr = keep
            out.append(said.getvalue())
        return out


def _newest_run(arguments):
    joined = next((word for word in arguments if word.startswith("--outdir=")), None)
    outdir = joined.partition("=")[2] if joined else arguments[arguments.index("--outdir") + 1]
    return os.path.join(outdir, sorted(os.listdir(outdir))[-1])
