"""The demo's paths, present only with DEBUG=1 and DEMO=1."""

from django.urls import path

from demo import views

urlpatterns = [
    path("", views.page),
    path("demo/stranger", views.stranger),
    path("demo/log", views.log),
    path("demo/token/<str:who>", views.token),
    path("demo/<str:name>", views.asset),
]
