"""The Django project around the relay: environment, settings, urls and the ASGI stack."""
