"""What can train a run. To add a trainer: one module with a subclass of Trainer, and one line here."""
