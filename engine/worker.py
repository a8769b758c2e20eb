"""`python -m engine.worker N`: a worker; its supervisor holds the other end of the socket that N names."""

import gc
import sys

if __name__ == "__main__":
    # What is imported and compiled stays: looking through it for garbage is a fifth of a start. The worker
    # turns the collector on when it is ready.
    gc.disable()

from engine.app import create_worker_app
from engine.serve.worker import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(int(sys.argv[1]), create_worker_app))
