"""Celery: nudges only. Tasks carry row ids; PostgreSQL says what is due, and the sweep re-sends it."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "playground.settings")
# Django's checks load every page, which no worker shows: 50 MB in each process.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("playground")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["playground", "endpoints"])
