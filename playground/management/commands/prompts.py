"""The library of prompts as files of a folder, for git: `prompts export DIR`, `prompts import DIR`."""

import argparse
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from playground import prompt_files
from playground.access import Refused
from playground.acting import acting
from playground.models import Prompt, Team, User
from playground.prompts import PromptRefused

SUFFIXES = (".yaml", ".yml", ".json")


class Command(BaseCommand):
    help = "Write a team's prompts to files, one each, or read them from files."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        out = verbs.add_parser(
            "export", help="Write a file a prompt; files that say the same stay untouched."
        )
        out.add_argument("--format", choices=list(prompt_files.FORMATS), default="yaml")
        out.add_argument("--all", action="store_true", help="Every version, not the newest alone.")
        read = verbs.add_parser(
            "import", help="Make prompts, or new versions where files say something else."
        )
        read.add_argument("--as", dest="person", required=True, help="Whose name the versions bear.")
        for one in (out, read):
            one.add_argument("folder", type=Path)
            one.add_argument("--team", default="default", help="The team's short name.")

    def handle(self, *args: Any, **options: Any) -> None:
        team = Team.objects.filter(slug=options["team"]).first()
        if team is None:
            raise CommandError(f"There is no team {options['team']}.")
        if options["verb"] == "export":
            self.export(team, options["folder"], options["format"], options["all"])
            return
        person = User.objects.filter(username=options["person"], is_active=True).first()
        if person is None:
            raise CommandError(f"There is nobody called {options['person']}.")
        with acting("command", who=f"prompts import, {person.get_username()}"):
            self.take(team, person, options["folder"])

    def export(self, team: Team, folder: Path, kind: str, every: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        taken: set[str] = set()
        for prompt in Prompt.objects.filter(team=team).order_by("pk"):
            versions = list(prompt.versions.select_related("created_by"))
            text = prompt_files.write(prompt_files.document(prompt, versions, every=every), kind)
            name = prompt_files.filename(prompt, kind)
            if name in taken:
                name = f"{Path(name).stem}-{prompt.pk}.{kind}"
            taken.add(name)
            path = folder / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                self.stdout.write(f"wrote {name}")

    def take(self, team: Team, person: User, folder: Path) -> None:
        if not folder.is_dir():
            raise CommandError(f"{folder} is no folder.")
        wrong = []
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            try:
                if path.stat().st_size > prompt_files.BYTES:
                    raise PromptRefused(f"It has over {prompt_files.BYTES:,} bytes.")
                done = prompt_files.keep(team, person, prompt_files.read(path.read_bytes(), path.name))
            except (PromptRefused, Refused) as problem:
                wrong.append(f"{path.name}: {problem}")
            else:
                self.stdout.write(f"{path.name}: {done.what}")
        if wrong:
            raise CommandError("\n".join(wrong))
