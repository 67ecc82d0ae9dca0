"""The paper's tables: what to run (tables/), running it (run), what came out (ledger), and showing it (report)."""

import os

# torch then allocates memory in huge pages. On a CPU, page faults took two fifths of the time of StyleSV's images.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
