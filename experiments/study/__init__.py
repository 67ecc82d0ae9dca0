"""The study: does the MTM do here what the paper says it does? docs/study.md has its rules, written before its runs.

python -m experiments.study run --out runs/study        train and measure what is left, the first tables first
python -m experiments.study merge runs/study ...        all runs of one or more machines in docs/study/results.json
python -m experiments.study report                      tables and figures of docs/study.md from that file
"""

from pathlib import Path

# In this order when hours run short.
TABLES = ("study-people", "study-sets", "study-controls", "study-layers", "study-stability", "study-official")
DOCS = Path("docs")
RESULTS = DOCS / "study" / "results.json"
PAGE = DOCS / "study.md"
