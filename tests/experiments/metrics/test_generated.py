"""What metrics draw from a generator: latents, labels distributed as in the real data, frames from the first."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.datasets.images import Source
from experiments.files import UserError
from experiments.metrics.generated import Generated


class Fake:
    """A conditional video network whose frames show the label and the time."""

    path = Path("fake.pkl")

    def __init__(self, c_dim: int, frames: bool = True) -> None:
        self.facts = SimpleNamespace(z_dim=4, c_dim=c_dim, frames=frames, trainer="fake", resolution=2)

    def labels(self, count: int) -> torch.Tensor:
        return torch.eye(max(1, self.facts.c_dim))[torch.arange(count) % max(1, self.facts.c_dim)]

    def generate(self, z, c, frames=None, noise=False):
        assert noise
        value = c.argmax(dim=1).byte()[:, None, None, None].expand(-1, 3, 2, 2)
        if frames is None:
            return value
        return torch.stack([value + 10 * int(t) for t in frames], dim=1)


def source(labels: list) -> Source:
    names = [str(i) for i in range(len(labels))]
    return Source(Path(), names, lambda _: b"", True, dict(zip(names, labels, strict=True)))


def values(generated: Generated) -> list[int]:
    return [int(image.flatten()[0]) for batch in generated.batches(7) for image in batch]


def test_labels_are_drawn_as_the_real_datas_are_distributed():
    generated = Generated(Fake(3), 2000, 0, source([0] * 30 + [2] * 10))
    counts = Counter(values(generated))
    assert set(counts) == {0, 2}
    assert counts[0] == pytest.approx(1500, abs=90)
    assert generated.facts()["labels"] == "drawn as the real data's"
    assert values(generated) == values(Generated(Fake(3), 2000, 0, source([0] * 30 + [2] * 10)))
    assert values(generated) != values(Generated(Fake(3), 2000, 1, source([0] * 30 + [2] * 10)))


def test_labels_of_several_numbers_are_passed_on():
    generated = Generated(Fake(2), 20, 0, source([[0.0, 1.0], [0.5, 2.0]]))
    assert set(values(generated)) == {1}


def test_without_labels_the_networks_own_are_taken_and_it_is_written_down():
    generated = Generated(Fake(3), 6, 0, None)
    assert values(generated) == [0, 1, 2, 0, 1, 2]
    assert generated.facts()["labels"] == "the network's default"
    assert "labels" not in Generated(Fake(0), 6, 0, None).facts()


@pytest.mark.parametrize("label", [3, -1, [1.0], "cat"])
def test_labels_that_do_not_fit_are_refused(label):
    with pytest.raises(UserError, match=r"fake.pkl: labels of the data must fit the network's 3 numbers; got"):
        Generated(Fake(3), 6, 0, source([label]))


def test_clips_begin_at_time_0_and_have_consecutive_frames():
    generated = Generated(Fake(2), 5, 0, None, frames=4)
    clips = [clip for batch in generated.batches(2) for clip in batch]
    assert len(clips) == len(generated) == 5
    assert clips[0].shape == (3, 4, 2, 2)
    assert clips[0][0, :, 0, 0].tolist() == [0, 10, 20, 30]


def test_every_rank_generates_its_own_share():
    labels = source([[float(i == j) for j in range(5)] for i in range(5)])
    whole = values(Generated(Fake(5), 300, 0, labels))
    for ranks in (2, 7):
        shares = [Generated(Fake(5), 300, 0, labels) for _ in range(ranks)]
        found = [
            [int(image.flatten()[0]) for batch in s.share(9, r, ranks) for image in batch] for r, s in enumerate(shares)
        ]
        assert found == [whole[rank::ranks] for rank in range(ranks)]
        assert shares[0].facts()["ranks"] == ranks
    assert [len(list(Generated(Fake(0), 2, 0).share(4, rank, 3))) for rank in range(3)] == [1, 1, 0]
