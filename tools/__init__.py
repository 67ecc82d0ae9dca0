"""Command-line tools for the experiments: patches, data preparation, weights."""
