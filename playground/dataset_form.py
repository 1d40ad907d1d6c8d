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
    """An empty form; with the template of the dataset's newest table."""
    values = dict.fromkeys(FIELDS, "")
    if dataset:
        rows = dataset.versions.filter(complete=True, kind=DatasetVersion.Kind.TABLE)
        if (before := rows.order_by("-number").first()) and _fits(before.template):
            values["prompt"] = before.template[-1]["content"]
            values["system"] = before.template[0]["content"] if len(before.template) > 1 else ""
    return Typed(team, values, dataset=dataset)


def _fits(template: list[dict[str, str]]) -> bool:
    """Whether the form's two fields can hold it."""
    return [message.get("role") for message in template] in (["user"], ["system", "user"])


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
    suggested = form.looked.suggested()
    if not form.values["prompt"].strip() and anew:
        form.values["prompt"] = suggested.template[-1]["content"]
        form.values["system"] = suggested.template[0]["content"] if len(suggested.template) > 1 else ""
    if anew:
        form.values |= {"expected": suggested.expected, "identity": suggested.identity}
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
            list(shape.template) if shape.kind == reading.TABLE else None,
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
