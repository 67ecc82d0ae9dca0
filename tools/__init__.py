"""Command-line tools around the experiments: patches, data preparation, weights."""
