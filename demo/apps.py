"""Makes `demo` a Django application, so that it can listen to the log."""

import logging

from django.apps import AppConfig

from demo.log import is_not_ours, recent


class DemoConfig(AppConfig):
    name = "demo"

    def ready(self) -> None:
        relay = logging.getLogger("relay")
        relay.addFilter(is_not_ours)
        relay.addHandler(recent)
