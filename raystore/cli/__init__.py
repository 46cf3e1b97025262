"""The command line. `raystore --help` lists the verbs; each is a thin call of the Python API."""

from raystore.cli.main import main

__all__ = ["main"]
