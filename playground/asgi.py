"""The ASGI application: pages, WebSockets and /v1. Lifespan is handled here, since Channels' router does not."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "playground.settings")
application = get_asgi_application()
