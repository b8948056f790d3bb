"""`python -m demo`."""

from demo.runner import main

main()
