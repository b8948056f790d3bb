"""HTTP: the lean handler, the view that relays, and the client that talks to the backends."""
