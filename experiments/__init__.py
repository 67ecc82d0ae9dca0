"""The paper's tables: what to run (tables/), running it (run), what came out (ledger), and showing it (report)."""

import os

# torch then takes memory in huge pages. On a CPU, page faults are else up to two fifths of the time of images and metrics.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
