"""`manage.py run_replica <pk>`: one replica's runner, spawned detached by its node's worker."""

import asyncio
import dataclasses
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, InterfaceError

from playground import (
    adapters,
    catalogue,
    deployments,
    drafts,
    environments,
    external,
    measured,
    nodes,
    runner,
)
from playground.engines.base import Hardware, Reason, ReasonCode
from playground.models import Replica
from playground.orm import orm
from playground.reporter import Superseded, Took, Unreachable, Wish
from playground.secrets import Unreadable
from playground.spec import Spec


class Command(BaseCommand):
    help = "Run one replica's engine on this node (used by the worker)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("pk", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        row = Replica.objects.select_related(
            "node", "configuration__environment", "configuration__format__model"
        ).get(pk=options["pk"])
        if row.state != Replica.State.ASSIGNED or row.node is None or row.node.name != settings.NODE_NAME:
            self.stdout.write(f"replica {row.pk} is {row.state}: nothing to run here")
            return
        try:
            spec = _spec(row)
        except Unreadable as problem:
            deployments.mark_failed(row.pk, Reason(ReasonCode.SERVER_REFUSED, str(problem)), [])
            return
        sys.exit(asyncio.run(runner.run(spec, RowReporter(row.pk))))


class RowReporter:
    """Writes what the runner reports to the replica's row, and reads its wish there."""

    def __init__(self, pk: int) -> None:
        self._pk = pk

    async def claim(self, runner_pid: int) -> bool:
        return await _reach(deployments.claim, self._pk, runner_pid)

    async def started(self, command: list[str], port: int, engine_pid: int, relay_port: int | None) -> None:
        await self._report(deployments.mark_started, command, port, engine_pid, relay_port)

    async def loading(self, note: str = "") -> None:
        await self._report(deployments.mark_loading, note)

    async def ready(self, took: Took) -> None:
        await self._report(deployments.mark_ready)
        await _reach(measured.record, self._pk, took)

    async def unhealthy(self, why: str) -> None:
        await self._report(deployments.mark_unhealthy, why)

    async def recovered(self) -> None:
        await self._report(deployments.mark_recovered)

    async def failed(self, reason: Reason, log_tail: list[str]) -> None:
        await self._report(deployments.mark_failed, reason, log_tail)

    async def stopping(self) -> None:
        await self._report(deployments.mark_stopping)

    async def stopped(self, reason: Reason, log_tail: list[str]) -> None:
        await self._report(deployments.mark_stopped, reason, log_tail)

    async def beat(self, health: dict[str, Any]) -> Wish:
        row = await _reach(deployments.beat, self._pk, health)
        if row is None:
            raise Superseded
        if row.state == Replica.State.STOPPING:
            return Wish.STOP
        if row.state == Replica.State.DRAINING and await _reach(deployments.drained, row):
            return Wish.DRAIN
        return Wish.RUN

    async def _report(self, mark: Callable[..., bool], *arguments: Any) -> None:
        """A report the row's state has no place for is dropped, unless the row was taken over."""
        if not await _reach(mark, self._pk, *arguments) and await _reach(_taken_over, self._pk):
            raise Superseded


async def _reach[**Arguments, Result](
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    try:
        return await orm(call, *args, **kwargs)
    except (DatabaseError, InterfaceError) as problem:
        raise Unreachable(str(problem).strip()) from problem


def _taken_over(pk: int) -> bool:
    return not Replica.objects.filter(pk=pk, state__in=deployments.RUNNING).exists()


def _spec(row: Replica) -> Spec:
    """Everything decided about the replica, in one value that needs no database."""
    configuration, node, resources = row.configuration, row.node, row.resources
    assert configuration is not None and node is not None
    gpus = tuple(gpu["index"] for gpu in resources["gpus"])
    machine = nodes.hardware(node)
    given = Hardware(
        resources["cores"], machine.memory_bytes, tuple(gpu for gpu in machine.gpus if gpu.index in gpus)
    )
    model = dataclasses.replace(
        catalogue.local(configuration.format),
        adapters=adapters.local(configuration),
        trusts_code=configuration.runs_code,
    )
    model = drafts.beside(model, drafts.of(configuration))
    return Spec(
        replica=row.pk,
        deployment=row.deployment_id,
        engine=configuration.engine,
        environment=environments.path(configuration.environment),
        model=model,
        options=configuration.options,
        extra=tuple(configuration.extra),
        served_name=row.served_name,
        hardware=given,
        slots=tuple(resources["slots"]),
        gpus=gpus,
        cores=resources["cores"],
        home=settings.HOME,
        node_address=settings.NODE_ADDRESS,
        relay=nodes.relays(),
        relay_key=row.relay_key,
        engine_key=row.engine_key,
        server_key=external.key(configuration.model),
        task=model.task,
        load_timeout_s=settings.LOAD_TIMEOUT_S,
        frozen_after_s=settings.FROZEN_AFTER_S,
        grace_s=settings.GRACE_S,
        drain_s=settings.DRAIN_S,
        heartbeat_s=settings.HEARTBEAT_S,
        tls_cert=settings.TLS_CERT,
        tls_key=settings.TLS_KEY,
    )
