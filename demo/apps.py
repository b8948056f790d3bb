"""Makes `demo` a Django application, so that it can listen to the log."""

import logging

from django.apps import AppConfig

from demo.log import recent


class DemoConfig(AppConfig):
    name = "demo"

    def ready(self) -> None:
        logging.getLogger("relay").addHandler(recent)
