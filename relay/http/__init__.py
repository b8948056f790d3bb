"""HTTP: the lightweight handler, the relaying view, and the client for the backends."""
