import csv
from importlib.resources import files

import pytest


@pytest.fixture(scope="session")
def measured_rows():
    """The rows of the shipped table, read without the code under test."""
    text = files("colosim").joinpath("data", "dirty-pages-measured.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))
