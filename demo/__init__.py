"""What `make run` starts: a gateway, a backend behind it, and a page to try both. Never part of a deployment.

`python -m demo` runs the three until Ctrl-C; `python -m demo COMMAND …` is manage.py's COMMAND in the demo's
environment, for example `python -m demo revoke --user-id 1`.
"""
