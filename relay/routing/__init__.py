"""Which backend a path leads to: the configuration as a frozen snapshot, and how it gets here from the database."""
