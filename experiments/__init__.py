"""The paper's tables: what to run (tables/), running it (run), what came out (ledger), and showing it (report)."""
