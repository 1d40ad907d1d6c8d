from django.apps import AppConfig


class EndpointsConfig(AppConfig):
    name = "endpoints"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """A replica drains until no web process would still choose it."""
        from endpoints import drain
        from playground import deployments

        deployments.DRAIN_CHECKS.append(drain.acknowledged)
