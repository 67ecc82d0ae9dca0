"""Called by the lines that patches/ inserts into the official codebases. One module per concern.

Nothing here imports mtm_ops unless a network with MTM is built; with `--mtm none` it is not used. The package need not
be installed: a patched checkout finds the repository that contains it (docs/patching.md).
"""
