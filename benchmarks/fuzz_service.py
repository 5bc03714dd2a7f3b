"""Schemathesis over the OpenAPI document of a running service; needs `pip install schemathesis`.

python benchmarks/fuzz_service.py [--cases 400] [-- OPTIONS OF SCHEMATHESIS]

The service runs over made-up people that are fitted, with an administrator's key and a model of
ours behind its gateway. `--cases` is per operation and phase. Anything that ends in a 5xx, leaves
in another form than the document says, or is let in without a key is a failure, and the exit code.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway import HERE, started, stocked

MODEL, SERVICE = 8621, 8622
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("options", nargs="*")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    key, log = stocked(folder, 50), (folder / "log").open("w")
    model, service = (f"http://127.0.0.1:{port}" for port in (MODEL, SERVICE))
    running = [started([sys.executable, HERE / "fake_model.py", str(MODEL)], f"{model}/leaks", log)]
    try:
        running.append(started(
            [sys.executable, "-m", "copersona", "--store", folder / "people.db", "--encoder",
             "static", "--llm", f"openai:fake@{model}/v1",
             "serve", "--port", str(SERVICE), "--rate", "0"],
            f"{service}/readyz", log,
        ))  # fmt: skip
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", f"{service}/openapi.json",
             "-H", f"Authorization: Bearer {key}",
             "--max-examples", str(options.cases), "--checks", CHECKS, "--continue-on-failure",
             "--suppress-health-check", "all", "--warnings", "off", *options.options],
            cwd=folder, check=False,
        )  # fmt: skip
    finally:
        for process in running:
            process.terminate()
            process.wait()
    bugs = [line for line in (folder / "log").read_text().splitlines() if "a bug:" in line]
    print(f"{len(bugs)} bugs in the log of the service, {folder / 'log'}")
    sys.exit(done.returncode or bool(bugs))


if __name__ == "__main__":
    main()
