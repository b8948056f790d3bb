"""The live state: sockets, log and metrics. At run time it imports no other subpackage."""
