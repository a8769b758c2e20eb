"""`gatewayz serve` with the fake workers: argv are the command's own arguments."""

import argparse
import sys
from pathlib import Path

from engine.config.settings import read_environment, read_settings
from engine.errors import ConfigRefused
from engine.serve.commands import refuse, serve
from engine.serve.supervisor import ServeOptions

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    server = {"port": given.port} | ({"workers": given.workers} if given.workers else {})
    command = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
    try:
        options = ServeOptions(read_settings(config=given.config), read_environment(), server, command)
    except ConfigRefused as refused:
        sys.exit(refuse(refused))
    sys.exit(serve(options))
