from django.apps import AppConfig


class PlaygroundConfig(AppConfig):
    name = "playground"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Storage joins the quotas, wishes join the needs; sign-ins and their ends are heard."""
        from playground import datasets, frame, landing, quotas, signing_in, start_wishes

        quotas.STORAGE["models"] = ("own models", "TEAM_QUOTA_GB", landing.usage)
        quotas.STORAGE["datasets"] = ("datasets", "DATASETS_QUOTA_GB", datasets.usage)
        frame.NEEDS_OF.append(start_wishes.needs)
        signing_in.listen()
