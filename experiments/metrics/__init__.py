"""Metrics, one module each; shared/METRICS.md of the project says what each is, point by point."""
