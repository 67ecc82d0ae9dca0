"""Data sets: from a publisher's files, or rendered, to the zip that every trainer reads."""
