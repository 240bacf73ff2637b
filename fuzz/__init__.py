"""Fuzz targets, one a parser: `make fuzz`, or `python -m fuzz.NAME -max_total_time=600`.

Lives here: what must hold for every input. Never here: examples; those are in the tests.
Coverage-guided by atheris (libFuzzer), which the extra `fuzz` installs.
"""
