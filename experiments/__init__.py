"""The paper's tables: their definitions (tables/), the runner (run), the record of all runs (ledger), the report."""

import os

# Makes torch allocate memory in huge pages: on a CPU, page faults took two fifths of the time of generating StyleSV's
# images.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
