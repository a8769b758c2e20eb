"""`python -m engine.upstream.simulator`: the simulator alone."""

import sys

from engine.upstream.simulator.commands import main

sys.exit(main())
