"""Run tests while Triton interprets its kernels, and save their reports: `python interpreter.py REPORTS NODEID…`."""

import json
import os
import sys
from pathlib import Path

import pytest


class Recorder:
    """A pytest plugin that writes every report as a line of JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_configure(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with self.path.open("a") as file:
            file.write(json.dumps(data) + "\n")


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    sys.exit(pytest.main([*sys.argv[2:], "--quiet"], plugins=[Recorder(Path(sys.argv[1]))]))
