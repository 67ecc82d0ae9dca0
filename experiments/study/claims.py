"""The claims of the study and the comparisons that decide them, as fixed in docs/study.md.

To change a line here after the first run is to change the rules: say so in docs/study.md.
"""

from __future__ import annotations

from dataclasses import dataclass

KIMG = 40  # length of a run at 32 px


@dataclass(frozen=True)
class Comparison:
    """A comparison of the runs of `row` with those of `baseline` with the same seed, by one metric.

    `least` is the smallest gain that matters, in the metric's own unit or, with `relative`, as a share of the baseline.
    `equal_time`: compare after equal training time, not after equal numbers of images.
    """

    row: str
    baseline: str
    metric: str
    least: float
    relative: bool = True
    equal_time: bool = False

    @property
    def id(self) -> str:
        return f"{self.row}:{self.baseline}:{self.metric}" + (":time" if self.equal_time else "")


@dataclass(frozen=True)
class Claim:
    """A sentence, and the comparisons that decide it. `family`: primary, secondary or exploratory. p values are
    corrected within a family; those of exploratory claims are not corrected."""

    id: str
    text: str
    family: str
    comparisons: tuple[Comparison, ...]


def _people(row: str, baseline: str, *metrics: str, equal_time: bool = False) -> tuple[Comparison, ...]:
    names = metrics or ("person_rate", "joint_distance")
    return tuple(
        Comparison(row, baseline, name, 0.03, relative=False, equal_time=equal_time)
        if name == "person_rate"
        else Comparison(row, baseline, name, 0.05, equal_time=equal_time)
        for name in names
    )


LOW, PLAIN = "people-low", "people-plain"

CLAIMS = (
    Claim("people", "MTM gains on people", "primary", _people(LOW, PLAIN)),
    Claim(
        "openmoji",
        "MTM gains on OpenMoji",
        "primary",
        (Comparison("openmoji-low", "openmoji-plain", "frechet", 0.05),),
    ),
    Claim("time-people", "MTM gains on people at equal time", "secondary", _people(LOW, PLAIN, equal_time=True)),
    Claim(
        "time-openmoji",
        "MTM gains on OpenMoji at equal time",
        "secondary",
        (Comparison("openmoji-low", "openmoji-plain", "frechet", 0.05, equal_time=True),),
    ),
    Claim(
        "parameters",
        "the gain is more than that of its parameters (Low against wide)",
        "secondary",
        _people(LOW, "people-wide"),
    ),
    Claim(
        "sees-w",
        "offsets have to see the latent (Low against sees-x)",
        "secondary",
        _people(LOW, "people-sees-x"),
    ),
    Claim("sees-x", "offsets have to see the input (Low against sees-w)", "secondary", _people(LOW, "people-sees-w")),
    Claim(
        "late",
        "a trained plain network gains from MTM (late against plain)",
        "secondary",
        _people("people-late", PLAIN),
    ),
    Claim("mid", "a Mid layer adds a gain (Low and Mid against Low)", "secondary", _people("people-low-mid", LOW)),
    Claim("mask", "masks add a gain (head offset+mask against offset)", "secondary", _people("people-mask", LOW)),
    Claim(
        "beside-people",
        "MTM gains on people, other metrics",
        "exploratory",
        _people(LOW, PLAIN, "frechet", "frechet_mobilenet"),
    ),
    Claim(
        "beside-openmoji",
        "MTM gains on OpenMoji, other metric",
        "exploratory",
        (Comparison("openmoji-low", "openmoji-plain", "frechet_mobilenet", 0.05),),
    ),
    Claim(
        "official",
        "the official StyleGAN2 gains on people",
        "exploratory",
        _people("official-low", "official-plain", "person_rate", "joint_distance", "frechet", "frechet_mobilenet"),
    ),
    Claim(
        "beside-aligned",
        "MTM gains on aligned",
        "exploratory",
        tuple(Comparison("aligned-low", "aligned-plain", name, 0.05) for name in ("frechet", "frechet_mobilenet")),
    ),
)

# MTM helps where geometry varies: the gain on people is larger than on aligned, both as shares of plain's value.
CONTRAST = (Comparison(LOW, PLAIN, "frechet", 0.05), Comparison("aligned-low", "aligned-plain", "frechet", 0.05))
