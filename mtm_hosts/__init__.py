"""What the lines that patches/ inserts into the official codebases call. One module per concern.

Nothing here imports mtm_ops unless a network with MTM is asked for: with `--mtm none` it stays off the path. The
package is not installed: a patched checkout finds the repository that it lies in (docs/patching.md).
"""
