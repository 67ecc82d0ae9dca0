"""Randomly interrupted trainings, with and without sidecars: the adapters count the kimg that were really trained."""

import json
import random
from pathlib import Path

import pytest
from test_trainers import make_run, snap

from experiments.trainers import TRAINERS
from experiments.trainers.contract import Run, Step

BATCH_KIMG = 0.064


class Host:
    """Stands in for a host's train.py. It counts as the host does, and knows the true kimg behind each snapshot."""

    def __init__(self, run: Run, tick_kimg: float, seed: int) -> None:
        self.run, self.tick_kimg, self.random = run, tick_kimg, random.Random(seed)
        self.trained = {}  # snapshot -> (kimg of the whole run, count of its own start)
        self.starts = 0

    def start(self, step: Step) -> float:
        """One start that ends at random; returns the kimg that the whole run has trained by then."""
        words = dict(word.removeprefix("--").split("=", 1) for word in step.argv[2:] if "=" in word)
        kimg = float(step.env.get("MTM_KIMG") or words.get("kimg") or words["training.kimg"])
        resume = words.get("resume") or words.get("training.resume")
        out = self._folder(words.get("project_release_dir"))
        out.mkdir(parents=True)
        (out / "training_options.json").write_text(json.dumps({"resume_pkl": resume}))
        begun, own = self.trained[resume] if resume else (0.0, 0.0)
        exact = resume and step.env.get("MTM_RESUME") != "weights" and state_of(Path(resume)).exists()
        own = own if exact else 0.0
        first, next_tick = own, own + self.tick_kimg if exact else BATCH_KIMG
        stop_kimg = self.random.uniform(own, kimg) if self.random.random() < 0.6 else kimg
        with (out / "stats.jsonl").open("w") as stats:
            while own < kimg - 1e-9:
                while own < min(next_tick, kimg) - 1e-9:
                    own += BATCH_KIMG
                if own > stop_kimg and own < kimg - 1e-9:
                    break
                next_tick = own + self.tick_kimg
                self._save(out, own, begun + own - first)
                stats.write(json.dumps({"Progress/kimg": {"num": 1, "mean": own, "std": 0}}) + "\n")
        return begun + own - first

    def _folder(self, asked: str | None) -> Path:
        self.starts += 1
        if asked:
            return Path(asked) / "output"
        return self.run.train / f"{self.starts - 1:05d}-{self.random.choice(('a', 'renamed'))}"

    def _save(self, out: Path, own: float, trained: float) -> None:
        luck = self.random.random()
        path = snap(out, int(own + 1e-6), whole=luck < 0.9, sidecar=luck < 0.5)
        if luck >= 0.5:
            state_of(path).unlink(missing_ok=True)
        self.trained[str(path)] = (trained, own)


def state_of(snapshot: Path) -> Path:
    return snapshot.with_name(f"training-state-{snapshot.stem[-6:]}.pt")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("trainer", "kimg", "tick_kimg", "more"),
    [
        ("stylegan3", 50, 2, {}),
        ("stylegan-v", 50, 4, {}),
        ("stylesv", 50, 2, {"stage1-kimg": 20}),
        ("stylesv", 50, 2, {"stage1-kimg": 0}),
        ("stylesv", 2.56, 0.3, {"stage1-kimg": 0.64}),
        ("stylegan3", 0.64, 0.2, {}),
    ],
)
def test_a_run_trains_for_its_kimg_however_it_was_interrupted(tmp_path, trainer, kimg, tick_kimg, more, seed):
    run, adapter = make_run(tmp_path, trainer, **{**more, "kimg": kimg}), TRAINERS[trainer]
    host = Host(run, tick_kimg, seed)
    while not adapter.progress(run).finished:
        assert host.starts < 40
        trained_kimg = host.start(adapter.train_step(run))
        if kimg > 1:  # below 1 kimg, a snapshot's name is too coarse
            assert adapter.progress(run).kimg == pytest.approx(trained_kimg, abs=1.5 * tick_kimg + 1)
    trained_kimg, _ = host.trained[str(adapter.snapshot(run))]
    # Each start without a sidecar rounds the remaining kimg up to an integer.
    assert kimg - 1 < trained_kimg < kimg + (host.starts + 1 if kimg >= 3 else 0.07 * host.starts + 0.01)
