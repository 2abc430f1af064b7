"""What the scripts that measure have in common."""

import json
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benches" / "peers"

CERTIFICATE_DAYS = 2


def target_directories():
    """Where cargo puts what it builds, for each of the two workspaces."""
    found = {}
    for key, directory in (("root", ROOT), ("peers", PEERS)):
        command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
        output = subprocess.run(command, cwd=directory, check=True, capture_output=True).stdout
        found[key] = Path(json.loads(output)["target_directory"])
    return found


def raise_descriptor_limit():
    """A thousand connections and the usual limit of 1,024 descriptors are too close together."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_certificate(directory):
    """A certificate for localhost that signs itself, on P-256, and its key. Gives the server's arguments."""
    certificate, key = Path(directory) / "cert.pem", Path(directory) / "key.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", str(CERTIFICATE_DAYS), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("a server over TLS needs a certificate, which openssl makes, but there is no openssl; install it")
    except subprocess.CalledProcessError as error:
        sys.exit(f"openssl made no certificate:\n{error.stderr.strip()}")
    return ["--cert", str(certificate), "--key", str(key)]
