"""How Django writes times in the admin; see ``FORMAT_MODULE_PATH``."""
