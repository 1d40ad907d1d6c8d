from django.apps import AppConfig


class PlaygroundConfig(AppConfig):
    name = "playground"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """What takes storage joins the quotas."""
        from playground import datasets, landing, quotas

        quotas.STORAGE["models"] = ("own models", "TEAM_QUOTA_GB", landing.usage)
        quotas.STORAGE["datasets"] = ("datasets", "DATASETS_QUOTA_GB", datasets.usage)
