"""Traces for OpenTelemetry, where its variables ask for them; otherwise nothing imports this room.

Nothing on the way of a request knows of it. `layer` lies around the application and before the ways to the backends;
what a span says comes from the events of `relay.live.log`, which tell the story of every request and socket anyway.
"""
