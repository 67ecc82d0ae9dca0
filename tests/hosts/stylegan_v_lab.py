"""The official stylegan-v's configuration, at the size of the tests."""
