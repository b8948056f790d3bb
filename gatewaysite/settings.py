"""Django's settings; everything configurable comes from the environment (`gatewaysite.env`)."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from gatewaysite import env
from relay.live import lines

BASE_DIR = Path(__file__).resolve().parent.parent

try:
    _site, RELAY = env.read(env.environment(os.environ, Path.cwd()), BASE_DIR)
except env.SettingsError as exc:
    raise ImproperlyConfigured(str(exc)) from None

DEBUG = _site.debug
SECRET_KEY = _site.secret_key
ALLOWED_HOSTS = _site.allowed_hosts
DATABASES = {"default": _site.database}

ROOT_URLCONF = "gatewaysite.urls"
ASGI_APPLICATION = "gatewaysite.asgi.application"
INSTALLED_APPS = [
    "relay",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *(["demo"] if RELAY.demo else []),
]
# Only the admin uses these; relayed paths have their own handler (relay.http.handler).
MIDDLEWARE = [
    "relay.admin.security.guard",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["gatewaysite.formats"]
USE_TZ = True
STATIC_URL = "/gateway/static/"  # below the gateway's own paths: /static/ belongs to the backends
# The admin's files are served from where they are installed: there is no collectstatic step, in a checkout or an image.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# The scheme is the client's, as relay.entry determined it; only fields from trusted proxies can change it.
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "relay.admin.security.refused_form"
SESSION_COOKIE_NAME = "gateway_session"
CSRF_COOKIE_NAME = "gateway_csrf"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"

LOGGING = lines.configure(RELAY.log_format, RELAY.log_level, RELAY.token_names)
