"""Known flaws of the locked packages. Where the service that knows them cannot be reached, that is said, loudly."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITHIN_S = 120
AWAY = (
    "ConnectionError",
    "Max retries",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "SSLError",
    "HTTPError",
    "ServiceError",
)


def main() -> int:
    command = [
        str(Path(sys.executable).with_name("pip-audit")),
        "--disable-pip",
        "--require-hashes",
        "--strict",
    ]
    command += ["--vulnerability-service", "osv", "--progress-spinner", "off", "--timeout", "10"]
    command += ["--requirement", str(ROOT / "requirements.lock")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return skip(type(error).__name__)
    if done.returncode and any(word in done.stderr for word in AWAY):
        return skip(done.stderr.strip().splitlines()[-1][:200])
    sys.stdout.write(done.stdout + done.stderr)
    return done.returncode


def skip(reason: str) -> int:
    sys.stdout.write(f"!! NOT CHECKED for known flaws: the service cannot be reached ({reason})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
