"""Traces for OpenTelemetry, if its variables ask for them; otherwise nothing imports this package.

The code that handles requests does not know about it. `layer` wraps the application and the connections to backends;
the content of spans comes from the events of `relay.live.events`, which cover every request and socket anyway.
"""
