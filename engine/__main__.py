"""`python -m engine` is `gatewayz`."""

import sys

from engine.cli import main

sys.exit(main())
