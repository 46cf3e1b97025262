"""raystore's application as a program: python application.py STORE SPEC.json

Deploys the spec and says "deployed"; each further line of standard input is a spec file, which is deployed in place. Ends Serve and
itself when standard input ends, so it outlives nobody. `raystore serve FILE` is the same without the changes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from raystore.serve.run.deploy import Running, deploy
from raystore.serve.spec.read import parse_spec
from raystore.session import shutdown_ray


def main(store: str, file: str) -> None:
    running = deployed(store, file)
    try:
        for line in sys.stdin:
            deployed(store, line.strip())
    finally:
        running.stop()
        shutdown_ray()


def deployed(store: str, file: str) -> Running:
    spec = parse_spec(json.loads(Path(file).read_text(encoding="utf-8")), f"serve '{file}'")
    running = deploy(store, spec)
    print("deployed", flush=True)
    return running


if __name__ == "__main__":
    main(*sys.argv[1:])
