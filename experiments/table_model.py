"""What a table of experiments is made of: rows that are trained, sections that show them beside the paper's numbers."""

from collections.abc import Collection, Mapping

from experiments.checked import Checked, Value
from experiments.datasets import RECIPES
from experiments.datasets.zips import CLIPS
from experiments.files import UserError
from experiments.metrics import METRICS, Metric

# What the paper's Table 4 gives beside metrics: cost relative to the baseline, and the generator's size in millions.
MEASURES = {
    "training_ratio": "training time, ×",
    "inference_ratio": "inference time, ×",
    "parameters_m": "parameters, M",
}


class Dataset(Checked):
    """A data set by its recipe (experiments/datasets; the one of its own name where empty) and its options. Title and
    credit are the recipe's where empty. `size_gb` is the expected size of its zip, where that is known."""

    recipe: str = ""
    options: dict[str, Value] = {}
    title: str = ""
    credit: str = ""
    size_gb: float = 0.0


class Cost(Checked):
    """What a preset is expected to need, for the dry run and the check of the disk."""

    hours: float
    machine: str
    memory_gb: float
    disk_gb: float


class Estimate(Checked):
    """What a run is expected to need, where it is computed from its kimg (experiments/costs.py): seconds of one device
    for each kimg and for all else, and what its snapshots take, one every `snapshot_kimg` and the last."""

    device: str  # A100, V100, CPU core
    source: str
    s_per_kimg: float = 0.0
    rest_s: float = 0.0
    snapshot_gb: float = 0.0
    snapshot_kimg: float = 0.0


class Setting(Checked):
    """What several rows share; a row's own values come first. `like` names a setting whose values come last; `without`
    names metrics that these rows leave out, whatever their tables show."""

    like: str = ""
    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    without: list[str] = []
    options: dict[str, Value] = {}
    estimate: Estimate | None = None


class Preset(Checked):
    """Overrides. `meaningless` marks a smoke test: every number of this preset is labelled, wherever it is shown;
    `comparable` says whether its numbers may be compared with the paper's. `datasets` replaces one data set of the
    table by another; `stand_ins`: metrics take seeded random weights, which the runner makes. `cost` is of the whole
    table, where it does not follow from estimates."""

    about: str = ""
    cost: Cost | None = None
    meaningless: bool = False
    comparable: bool = True
    stand_ins: bool = False
    options: dict[str, Value] = {}
    settings: dict[str, Setting] = {}
    datasets: dict[str, str] = {}
    dataset_options: dict[str, Value] = {}
    samples_nimg: int | None = None
    seeds: list[int] = []
    parallel: int | None = None
    bench: dict[str, Value] = {}  # options of tools.bench_table4, for sections that show costs


class Row(Checked):
    """Runs that differ in their seed only. `paper` holds the paper's numbers by metric; `baseline` is the row to
    compare with; what is empty comes from the setting, or from the table. `kimg_times` multiplies the setting's
    kimg."""

    id: str
    title: str
    mtm: str
    setting: str = ""
    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    seeds: list[int] = []
    options: dict[str, Value] = {}
    kimg_times: int = 1
    estimate: Estimate | None = None
    paper: dict[str, float] = {}
    baseline: str | None = None


class Entry(Checked):
    """A line of a section: a row under the paper's name for it, with the paper's numbers by metric or measure. Without
    a row it is what the paper cites from others, which nothing runs."""

    title: str
    row: str = ""
    paper: dict[str, float] = {}


class Section(Checked):
    """A table or figure of the paper. `measures` are of MEASURES; `figure` names images of its rows that it shows."""

    id: str
    title: str
    metrics: list[str] = []
    measures: list[str] = []
    figure: str = ""
    entries: list[Entry]

    @property
    def row_ids(self) -> list[str]:
        return [entry.row for entry in self.entries if entry.row]


class Table(Checked):
    """A table, with one preset applied: every row is complete. `base` names the file of experiments/tables/shared
    whose keys it has as well; tables of one base may share an output folder. Without sections it shows its rows."""

    name: str
    title: str
    about: str
    base: str = ""
    datasets: dict[str, Dataset]
    presets: dict[str, Preset]
    rows: list[Row]
    sections: list[Section] = []
    settings: dict[str, Setting] = {}
    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    seeds: list[int] = [0]
    options: dict[str, Value] = {}
    samples_nimg: int = 50_000  # generated images for each metric that leaves the number open
    real_nimg: int = 0  # real images for such a metric; all if 0
    parallel: int = 1  # rows at a time, where there are GPUs enough
    seeds_first: bool = False  # all rows with their first seed, then with their second: what is compared ends together
    preset: str = "full"

    @property
    def family(self) -> str:
        """What tables that may share an output folder and data have in common."""
        return self.base or self.name

    @property
    def applied(self) -> Preset:
        return self.presets[self.preset]

    @property
    def on_cpu(self) -> bool:
        """Whether it needs no GPU, as a smoke test."""
        return self.meaningless

    @property
    def meaningless(self) -> bool:
        return self.applied.meaningless

    @property
    def shown_metrics(self) -> Mapping[str, Metric]:
        """The metrics that any row asks for, in the order in which they are asked for."""
        return {name: METRICS[name] for row in self.rows for name in row.metrics}

    @property
    def shown_sections(self) -> list[Section]:
        """The sections, or one of all rows."""
        if self.sections:
            return self.sections
        entries = [Entry(title=row.title, row=row.id, paper=row.paper) for row in self.rows]
        return [Section(id=self.name, title="Rows", metrics=list(self.shown_metrics), entries=entries)]

    def row(self, row_id: str) -> Row:
        """The row of this id, which must exist."""
        return next(row for row in self.rows if row.id == row_id)

    def with_data(self, given: Collection[str]) -> "Table":
        """The same table with the user's own images, at the same resolution, in place of those data sets in `given`
        that are rendered. The others take what the user gives for their source, or for an option (source_option).
        Raises UserError if they are clips.
        """
        own = RECIPES["images"]
        recipes = {name: RECIPES[self.datasets[name].recipe] for name in given}
        replaced = [name for name, recipe in recipes.items() if not (recipe.takes_source or recipe.source_option)]
        for name in replaced:
            if recipes[name].folder == CLIPS:
                raise UserError(
                    f"run: --data must stand for a data set of images; got {name}, whose folders of frames would be "
                    "lost. Train on your own clips with the codebase's own command: docs/hosts/."
                )
        changed = {
            name: Dataset(
                recipe=own.name,
                options={k: v for k, v in self.datasets[name].options.items() if k == "resolution"},
                title=own.title,
                credit=own.credit,
            )
            for name in replaced
        }
        return self.model_copy(update={"datasets": self.datasets | changed})

    def with_options(self, options: Mapping[str, Value], seeds: list[int] | None = None) -> "Table":
        """The same table with these options in every row, and with these seeds where they are given."""
        rows = [
            row.model_copy(update={"options": {**row.options, **options}, "seeds": seeds or row.seeds})
            for row in self.rows
        ]
        return self.model_copy(update={"rows": rows})
