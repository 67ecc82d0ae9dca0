"""The parts of a table of experiments: rows, which are trained, and sections, which show them beside the paper's
numbers."""

from collections.abc import Collection, Mapping

from experiments.checked import Checked, Value
from experiments.datasets import RECIPES
from experiments.datasets.zips import CLIPS
from experiments.files import UserError
from experiments.metrics import METRICS, Metric

# Measures in the paper's Table 4 that are not metrics: cost relative to the baseline, and the generator's parameters in
# millions.
MEASURES = {
    "training_ratio": "training time, ×",
    "inference_ratio": "inference time, ×",
    "parameters_m": "parameters, M",
}


class Dataset(Checked):
    """A data set: the name of its recipe (in experiments/datasets; if empty, the data set's own name) and its options.
    If empty, title and credit are the recipe's. `size_gb` is the expected size of its zip; 0 if unknown."""

    recipe: str = ""
    options: dict[str, Value] = {}
    title: str = ""
    credit: str = ""
    size_gb: float = 0.0


class Cost(Checked):
    """The expected needs of a preset, for the dry run and the check of disk space."""

    hours: float
    machine: str
    memory_gb: float
    disk_gb: float


class Estimate(Checked):
    """The expected needs of a run, computed from its kimg (experiments/costs.py): device-seconds per kimg, device-
    seconds for the rest, and the size of a snapshot, of which there is one every `snapshot_kimg` and one at the end."""

    device: str  # A100, V100, CPU core
    source: str
    s_per_kimg: float = 0.0
    rest_s: float = 0.0
    snapshot_gb: float = 0.0
    snapshot_kimg: float = 0.0


class Setting(Checked):
    """Values that several rows share; a row's own values take precedence. `like` names a setting to inherit from;
    `without` names metrics that these rows omit, even if their tables show them."""

    like: str = ""
    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    without: list[str] = []
    options: dict[str, Value] = {}
    estimate: Estimate | None = None


class Preset(Checked):
    """Overrides of a table's values. `meaningless` marks a smoke test: every number is labelled so wherever it is
    shown. `comparable` says whether the numbers may be compared with the paper's. `datasets` maps data sets of the
    table to others that replace them. With `stand_ins`, metrics use seeded random weights, which the runner makes.
    `cost` is that of the whole table, if it does not follow from estimates."""

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
    """Runs that differ only in their seed. `paper` holds the paper's numbers by metric; `baseline` is the id of the row
    to compare with. Empty values come from the setting or the table. `kimg_times` multiplies the kimg."""

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
    """A line of a section: a row under the paper's name for it, with the paper's numbers by metric or measure. An entry
    without a row is a result that the paper cites from other work; it is not run."""

    title: str
    row: str = ""
    paper: dict[str, float] = {}


class Section(Checked):
    """A table or figure of the paper. `measures` are keys of MEASURES; `figure` names the images of its rows that it
    shows."""

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
    """A table with one preset applied: every row is complete. `base` names a file in experiments/tables/shared whose
    keys the table inherits; tables with the same base may share an output folder. A table without sections shows its
    rows."""

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
    samples_nimg: int = 50_000  # generated images for each metric that does not fix the number
    real_nimg: int = 0  # real images for such a metric; all if 0
    parallel: int = 1  # runs at a time, if there are enough GPUs
    seeds_first: bool = False  # all rows with the first seed, then all with the second, ...
    preset: str = "full"

    @property
    def family(self) -> str:
        """The name that tables which may share an output folder and data have in common."""
        return self.base or self.name

    @property
    def applied(self) -> Preset:
        return self.presets[self.preset]

    @property
    def on_cpu(self) -> bool:
        """Whether it needs no GPU: true for a smoke test."""
        return self.meaningless

    @property
    def meaningless(self) -> bool:
        return self.applied.meaningless

    @property
    def shown_metrics(self) -> Mapping[str, Metric]:
        """The metrics that the rows ask for, in the order of their first appearance."""
        return {name: METRICS[name] for row in self.rows for name in row.metrics}

    @property
    def shown_sections(self) -> list[Section]:
        """The sections; if there are none, one with all rows."""
        if self.sections:
            return self.sections
        entries = [Entry(title=row.title, row=row.id, paper=row.paper) for row in self.rows]
        return [Section(id=self.name, title="Rows", metrics=list(self.shown_metrics), entries=entries)]

    def row(self, row_id: str) -> Row:
        """The row with this id, which must exist."""
        return next(row for row in self.rows if row.id == row_id)

    def with_data(self, given: Collection[str]) -> "Table":
        """The same table with the rendered data sets in `given` replaced by the user's own images at the same
        resolution. Other data sets in `given` are unchanged, because they take the user's path as their source or as
        an option (source_option). Raises UserError if a data set to replace consists of clips.
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
        """The same table with these options in every row and, if given, these seeds."""
        rows = [
            row.model_copy(update={"options": {**row.options, **options}, "seeds": seeds or row.seeds})
            for row in self.rows
        ]
        return self.model_copy(update={"rows": rows})
