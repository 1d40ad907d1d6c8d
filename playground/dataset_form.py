"""What a person typed to make a version of a dataset, and what stands against it, field by field.

Knows the form's fields and the file they are about, nothing of requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from playground import arriving, datasets, filling, reading
from playground.arriving import Arriving
from playground.datasets import DatasetRefused, Preview
from playground.models import Dataset, DatasetVersion, Team, User
from playground.reading import Looked, Shape

FIELDS = ("name", "system", "prompt", "expected", "identity")
CHARACTERS = filling.CHARACTERS + 1


@dataclass
class Typed:
    """The form. `dataset`: to which a version is added, else a new one is made."""

    team: Team
    values: dict[str, str]
    file: Arriving | None = None
    dataset: Dataset | None = None
    errors: dict[str, str] = field(default_factory=dict)
    status: int = 200
    looked: Looked | None = None
    preview: Preview | None = None

    @property
    def shape(self) -> Shape:
        """As typed; the file's own where it is no table."""
        assert self.looked is not None
        if self.looked.kind != reading.TABLE:
            return Shape(self.looked.kind)
        system, prompt = self.values["system"], self.values["prompt"]
        first = [{"role": "system", "content": system}] if system.strip() else []
        template = [*first, {"role": "user", "content": prompt}]
        return Shape(reading.TABLE, template, self.values["expected"], self.values["identity"])

    def refuse(self, name: str, problem: DatasetRefused) -> None:
        where = f"Line {problem.line}: " if problem.line else ""
        self.errors[name] = f"{where}{problem}"
        self.status = problem.status


def begin(dataset: Dataset | None, team: Team) -> Typed:
    """An empty form."""
    return Typed(team, dict.fromkeys(FIELDS, ""), dataset=dataset)


def _before(dataset: Dataset | None, looked: Looked) -> list[dict[str, str]]:
    """The template of the dataset's newest table, if the form can hold it and the file has its columns."""
    rows = DatasetVersion.objects.filter(dataset=dataset, complete=True, kind=DatasetVersion.Kind.TABLE)
    newest = rows.order_by("-number").first() if dataset else None
    template: list[dict[str, str]] = newest.template if newest else []
    if [message.get("role") for message in template] not in (["user"], ["system", "user"]):
        return []
    try:
        filling.check(template, looked.columns)
    except filling.TemplateRefused:
        return []
    return template


def typed(team: Team, posted: Mapping[str, str], file: Arriving | None, dataset: Dataset | None) -> Typed:
    """The form as it was sent. What is blank is filled in from the file's looks."""
    values = {name: posted.get(name, "").replace("\r\n", "\n")[:CHARACTERS] for name in FIELDS}
    values["name"] = values["name"].strip()
    form = Typed(team, values, file, dataset)
    if file is None or not file.is_whole:
        form.errors["file"] = (
            "Choose a file." if file is None else "The file has not come whole: choose it again."
        )
        form.status = 422
        return form
    values["name"] = values["name"] or Path(file.name).stem[:120]
    try:
        form.looked = reading.look(file.path, file.name)
    except DatasetRefused as problem:
        form.refuse("file", problem)
        return form
    if form.looked.kind == reading.TABLE:
        _suggest(form, "expected" not in posted)
    return form


def _suggest(form: Typed, anew: bool) -> None:
    assert form.looked is not None
    if anew:
        suggested = form.looked.suggested()
        template = _before(form.dataset, form.looked) or [dict(message) for message in suggested.template]
        form.values |= {"expected": suggested.expected, "identity": suggested.identity}
        form.values["prompt"] = template[-1]["content"]
        form.values["system"] = template[0]["content"] if len(template) > 1 else ""
    for name in ("expected", "identity"):
        if form.values[name] and form.values[name] not in form.looked.columns:
            form.errors[name] = f"This file has no column {form.values[name]}."
            form.status = 422
    try:
        filling.check(form.shape.template, form.looked.columns)
    except filling.TemplateRefused as problem:
        form.errors["prompt"] = str(problem)
        form.status = 422


def check(form: Typed, *, whole: bool = True) -> None:
    """Read the file as the form says; only its first rows where not `whole`."""
    if form.errors or form.file is None or form.looked is None:
        return
    try:
        form.preview = datasets.preview(form.file.path, form.file.name, None, form.shape, whole=whole)
    except DatasetRefused as problem:
        form.refuse("file", problem)


def keep(form: Typed, user: User, *, skip_bad: bool) -> DatasetVersion | None:
    """The version, and the file is removed; else None, and the form says why."""
    check(form)
    if form.errors or form.file is None or form.preview is None:
        return None
    if form.preview.bad_rows and not skip_bad:
        form.status = 422
        return None
    try:
        dataset = form.dataset or datasets.create(form.team, user, form.values["name"])
    except DatasetRefused as problem:
        form.refuse("name", problem)
        return None
    shape = form.preview.shape
    try:
        version = datasets.add_version(
            dataset,
            user,
            form.file.path,
            form.file.name,
            None,
            [dict(message) for message in shape.template] if shape.kind == reading.TABLE else None,
            expected=shape.expected,
            identity=shape.identity,
            skip_bad=skip_bad,
        )
    except DatasetRefused as problem:
        if form.dataset is None:
            dataset.delete()
        form.refuse("file", problem)
        return None
    arriving.remove(form.file)
    return version
