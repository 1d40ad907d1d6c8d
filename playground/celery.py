"""Celery: nudges only. Tasks carry row ids; PostgreSQL says what is due, and the sweep re-sends it."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "playground.settings")

app = Celery("playground")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["playground", "endpoints"])
