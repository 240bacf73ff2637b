"""What holds for all tests: nothing is judged by how long it took.

Lives here: settings of the libraries that the tests use. Never here: fixtures.
"""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
