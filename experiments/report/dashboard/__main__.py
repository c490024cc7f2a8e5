"""Write the dashboard: a page for every finished and unfinished study. Running it again updates the pages.

python -m experiments.report.dashboard [--serve]
"""

import argparse
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from experiments.harness.errors import SuiteError
from experiments.harness.explained import one_sentence
from experiments.harness.source_code import ROOT
from experiments.report.dashboard.pages import write_dashboard


def serve(folder: Path, port: int) -> None:
    """Serve ``folder`` to this machine only, until Ctrl-C. Raises SuiteError if the port is taken."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=folder))
    except OSError as error:
        raise SuiteError(f"Cannot serve on port {port} ({error.strerror}): choose another with --port.") from error
    with server, suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C to stop)", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.report.dashboard", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="published studies (default: results/)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="run records (default: runs/)")
    parser.add_argument("--output", type=Path, help="where to write the pages (default: dashboard/ in the runs folder)")
    parser.add_argument("--serve", action="store_true", help="serve the pages on 127.0.0.1 afterwards")
    parser.add_argument("--port", type=int, default=8000, help="for --serve; 0 picks a free one (default: 8000)")
    arguments = parser.parse_args()
    output = arguments.output or arguments.runs / "dashboard"
    with one_sentence():
        print(write_dashboard(arguments.results, arguments.runs, output))
        if arguments.serve:
            serve(output, arguments.port)
