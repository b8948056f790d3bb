"""The project's settings with an environment made for tests: nothing of the machine's own leaks in."""

import os
import tempfile

for _name in list(os.environ):
    if _name.startswith(
        ("JWT_", "REDIS_", "DATABASE_", "ALLOWED_", "TRUSTED_", "RATE_", "MAIN_SERVICE", "LOG_", "METRICS_", "DRAIN_")
    ):
        del os.environ[_name]
os.environ |= {
    "DEBUG": "1",
    "SECRET_KEY": "tests-only",
    "JWT_SECRET": "test-secret-test-secret-test-secret-0",
    "DATABASE_URL": "sqlite:///data/tests.sqlite3",
    "LOG_FORMAT": "json",
}

from gatewaysite.settings import *  # noqa: E402, F403
from gatewaysite.settings import DATABASES  # noqa: E402

# In memory, threads of one process would lock each other out of a table; in a file they wait for each other.
DATABASES["default"]["TEST"] = {"NAME": f"{tempfile.gettempdir()}/relay-tests-{os.getpid()}.sqlite3"}
