"""`python -m mlc_server`: the command line."""

import sys

from mlc_server.cli.main import main

sys.exit(main())
