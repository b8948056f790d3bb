"""What is going on now: the live sockets, the log, the metrics. At run time it imports no other room."""
