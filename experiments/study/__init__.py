"""The study: does the MTM do here what the paper says it does? docs/study.md has the rules, written before the runs.

python -m experiments.study run --out runs/study        train and measure the remaining runs, table by table
python -m experiments.study merge runs/study ...        collect runs of one or more machines in docs/study/results.json
python -m experiments.study report                      write tables and figures of docs/study.md from that file
"""

from pathlib import Path

# In the order of execution, most important first.
TABLES = ("study-people", "study-sets", "study-controls", "study-layers", "study-stability", "study-official")
DOCS = Path("docs")
RESULTS = DOCS / "study" / "results.json"
PAGE = DOCS / "study.md"
