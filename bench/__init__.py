"""The gateway measured beside what else a team could pick. See README.md; ``python -m bench --help``."""
