"""`python -m mlc_server`: the command line."""

from mlc_server.cli.main import run

run()
