"""`python -m engine.worker N`: a worker; its supervisor holds the other end of the socket that N names."""

import sys

from engine.app import create_worker_app
from engine.serve.worker import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(int(sys.argv[1]), create_worker_app))
