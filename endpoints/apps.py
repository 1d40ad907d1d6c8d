from django.apps import AppConfig


class EndpointsConfig(AppConfig):
    name = "endpoints"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Join the site: its navigation, finder and needs, and the end of a drain."""
        from endpoints import drain, files, joining, tested, usage_store
        from playground import audit, batch_gates, deployments, frame, nodes, prompts, quotas, sharing_rules

        deployments.DRAIN_CHECKS.append(drain.acknowledged)
        frame.ITEMS.append(frame.Item("Endpoints", "endpoints:list", 70))
        frame.ITEMS.append(frame.Item("Usage", "usage", 75))
        frame.NEEDS.append(joining.needs)
        frame.FINDERS.append(joining.find)
        frame.SECTIONS.append(joining.section)
        nodes.SWEEPS.append(usage_store.adopt)
        audit.PLACES |= joining.PLACES
        prompts.USES.append(tested.uses)
        sharing_rules.HOLDS.append(joining.holds)
        batch_gates.OPENS.append(joining.gate)
        batch_gates.CLOSES.append(joining.leave_gates)
        quotas.STORAGE["files"] = ("files", "API_FILES_GB", files.usage)
