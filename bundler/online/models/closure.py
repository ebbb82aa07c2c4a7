"""The closure of a manifest's models: other models that their files name, found, pinned and added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bundler.errors import BundleError, ResolveError
from bundler.format import paths
from bundler.format.lock.entries import Artifact, Model, ModelDependency
from bundler.online.inspection import kernels, references, remote_code
from bundler.online.inspection.model_files import UnreadableFileError
from bundler.online.inspection.references import Reference
from bundler.online.manifest.schema import ModelSpec
from bundler.online.models import manifest_entry
from bundler.online.models.model_resolution import ResolvedModel
from bundler.online.packages.bundled_packages import BundledPackages
from bundler.progress import Reporter, pluralize

ResolveModel = Callable[[ModelSpec], ResolvedModel]
_MAX_ADDED_MODELS = 50
"""Models that a build adds at most: a longer chain needs a look by a person."""
_CODE_PATTERNS = ("*.py",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelClosure:
    """The models of a manifest, the models that they need, and which file needs which model."""

    models: tuple[ResolvedModel, ...]
    edges: tuple[ModelDependency, ...]


def find_closure(
    specs: Sequence[ModelSpec], mode: str, resolve_model: ResolveModel, packages: BundledPackages, reporter: Reporter
) -> ModelClosure:
    """Follow what the models' files name until nothing new is found.

    Args:
        specs: the models of the manifest.
        mode: the manifest's ``closure``. "add" adds the models that files name, "report" makes them an error that says
            how to ask for them, "warn" leaves them out.
        resolve_model: fetches a model.
        packages: the packages of the bundle, which code of the models may import.
        reporter: gets notes and warnings.

    Raises:
        ResolveError: a model or file is missing; also what ``resolve_model`` raises.
    """
    search = _ClosureSearch(mode=mode, resolve_model=resolve_model, packages=packages, reporter=reporter)
    for spec in specs:
        search.add_member(spec)
    search.run()
    return ModelClosure(
        models=tuple(member.model for member in search.members), edges=tuple(dict.fromkeys(search.edges))
    )


def make_spec_from_lock(model: Model, files: Iterable[Artifact]) -> ModelSpec:
    """Make the entry for a model that an earlier build added to its lock: the same files of the same repository."""
    names = (file.path[len(model.folder) :] for file in files)
    return manifest_entry.make_spec(
        model.source.partition(":")[2].rpartition("@")[0],
        model.repo_type,
        alias=model.alias,
        include=tuple(name.replace("[", "[[]") for name in names),
    )


@dataclass(slots=True)
class _ClosureMember:
    """A model of the bundle, and its manifest entry; ``is_added`` where we made the entry."""

    spec: ModelSpec
    model: ResolvedModel
    is_added: bool = False

    @property
    def name(self) -> str:
        """The alias."""
        return self.spec.name

    @property
    def revisions(self) -> set[str]:
        """The names that the host's hub cache has for its commit; "" stands for no revision at all."""
        return {"", "main", self.model.model.commit, *self.model.model.revisions}


@dataclass(slots=True)
class _ClosureSearch:
    """The state of a search. ``problems`` are models that would not load: they fail the build when the search ends."""

    mode: str
    resolve_model: ResolveModel
    packages: BundledPackages
    reporter: Reporter
    members: list[_ClosureMember] = field(default_factory=list)
    pending: list[_ClosureMember] = field(default_factory=list)
    edges: list[ModelDependency] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unlisted: list[tuple[_ClosureMember, Reference]] = field(default_factory=list)

    def add_member(self, spec: ModelSpec, *, is_added: bool = False) -> _ClosureMember:
        """Fetch a model; `run` inspects it later."""
        try:
            model = self.resolve_model(spec)
        except remote_code.TrustDecisionMissingError as error:
            raise error.with_files(self._list_external_code(error.external_references)) from error
        member = _ClosureMember(spec, model, is_added)
        self.members.append(member)
        self.pending.append(member)
        return member

    def _list_external_code(self, external: Sequence[Reference]) -> list[str]:
        """List the files of other repositories that would run: they are fetched, so that a person can review them."""
        modules_by_repo: dict[tuple[str, str], list[str]] = {}
        for reference in external:
            modules_by_repo.setdefault((reference.repo, reference.revision), []).append(reference.module)
        files: list[str] = []
        for (repo, revision), modules in sorted(modules_by_repo.items()):
            spec = manifest_entry.make_spec(
                repo, "model", revision=revision or None, alias=repo.rpartition("/")[2], include=_CODE_PATTERNS
            )
            try:
                model = self.resolve_model(spec)
            except BundleError as error:
                names = ", ".join(dict.fromkeys(modules))
                files.append(f"{names} of {repo} and what it imports, which can't be listed: {error}")
                continue
            files += remote_code.list_running_files(modules, model.file_names, model.read_file, repo=repo)
        return files

    def run(self) -> None:
        """Inspect every member, also those that this adds; raises ResolveError."""
        while self.pending:
            member = self.pending.pop(0)
            try:
                self._inspect_member(member)
            except UnreadableFileError as error:
                self._add_problem(member, f"{member.name}: {error}")
        if self.unlisted:
            self._raise_unlisted()
        if self.problems:
            listed = "\n".join(f"  {problem}" for problem in dict.fromkeys(self.problems))
            hint = "complete the sources, or change include and exclude, which may have removed files; add packages to python.requirements"
            raise ResolveError(f"some models would not load on the host:\n{listed}", hint=hint)

    def _inspect_member(self, member: _ClosureMember) -> None:
        names, read_file = member.model.file_names, member.model.read_file
        if member.spec.repo_type != "model":
            for reference in kernels.find_dependencies(names, read_file) if member.spec.kernel else ():
                self._follow_reference(member, reference)
            return
        direct = references.find_models(names, read_file)
        if member.spec.trust_remote_code is not False:
            direct = [*references.find_code(names, read_file), *direct]
        queue = [(member, reference) for reference in direct]
        inspected: set[tuple[str, str]] = set()
        while queue:
            owner, reference = queue.pop(0)
            target = self._follow_reference(owner, reference)
            if target is None:
                continue
            if reference.module and (target.name, reference.module) not in inspected:
                inspected.add((target.name, reference.module))
                queue += self._inspect_code(member, reference, target)
        for description in references.find_unclear_bases(names, read_file):
            self.reporter.warn(f"{member.name}: {description}; who loads it must provide the base model")
        for required in references.find_required_packages(names, read_file):
            if self.packages.has_none(required.packages):
                where = f"{member.name}: {required.file} ({required.reason})"
                self._add_problem(member, f"{where} needs the package {required.text}")

    def _follow_reference(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember | None:
        """Return the model that is meant and record that it is needed; None where it does not travel."""
        target = self._find_or_add(owner, reference)
        if target is not None and target is not owner:
            edge = ModelDependency(model=owner.name, file=reference.file, reason=reference.reason, to=target.name)
            self.edges.append(edge)
        return target

    def _inspect_code(
        self, member: _ClosureMember, reference: Reference, holder: _ClosureMember
    ) -> list[tuple[_ClosureMember, Reference]]:
        """Find what the code that runs for a member fetches by itself; what the code lacks is a problem."""
        names, read_file = holder.model.file_names, holder.model.read_file
        running, missing = remote_code.find_running_files([reference.module], names, read_file)
        where = f"{member.name}: {reference.file} ({reference.reason})"
        for name in missing:
            self._add_problem(member, f"{where} runs {name}, which is not among the files of {holder.name}")
        model = member.model
        config = references.read_config("config.json", model.read_file) if "config.json" in model.file_names else {}
        fetched = []
        for name in running:
            try:
                absent = self.packages.find_missing_modules(remote_code.find_imported_packages(name, read_file))
                fetched += [(holder, call) for call in remote_code.find_hub_calls(name, read_file, config)]
            except UnreadableFileError as error:  # it may be for a newer Python than this one
                self.reporter.warn(f"{where} runs it: {error}; we do not know what it imports and fetches")
                continue
            if absent:
                problem = f"runs {name}, which imports {', '.join(absent)}: no package of the bundle has that"
                self._add_problem(member, f"{where} {problem}")
        return fetched

    def _find_or_add(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember | None:
        """Return the model that is meant, and fetch it where it is missing; None where it does not travel."""
        repo = (reference.repo_type, reference.repo)
        if not reference.repo or repo == (owner.spec.repo_type, owner.spec.hub_id):
            return owner
        member = next((m for m in self.members if (m.spec.repo_type, m.spec.hub_id) == repo), None)
        if member is None:
            return self._add_reference(owner, reference)
        if (revision := self._get_revision(reference)) not in member.revisions:
            self._report_revision_conflict(owner, reference, revision, member)
        if member.is_added and member.spec.include == _CODE_PATTERNS and not reference.module:
            member.spec = dataclasses.replace(member.spec, include=())
            member.model = self.resolve_model(member.spec)
            self.pending.append(member)
        return member

    def _report_revision_conflict(
        self, owner: _ClosureMember, reference: Reference, revision: str, existing: _ClosureMember
    ) -> None:
        """Raise ResolveError for a revision that the bundle lacks, or warn where it may never be asked for."""
        conflict = (
            f"{_describe_reference(owner, reference)} at revision {revision}, and the bundle has another revision"
        )
        if self.mode == "warn" or reference.is_guess or not reference.revision:
            self.reporter.warn(f"{conflict}: code that asks for {revision} will not find it")
            return
        include = existing.spec.include if reference.module else ()
        loader = "files" if existing.is_added else existing.spec.loader
        spec = dataclasses.replace(
            manifest_entry.make_spec(
                reference.repo, reference.repo_type, revision=revision, alias=existing.name, include=include
            ),
            loader=loader,
        )
        action = (
            "add this to models" if existing.is_added else f"replace the entry of {existing.name} in models with this"
        )
        hint = f"if all models that use it work with that revision, {action}:\n  - {manifest_entry.format_entry(spec)}"
        raise ResolveError(conflict, where=f"models: {existing.name}", hint=hint)

    def _get_revision(self, reference: Reference) -> str:
        """Return the revision that is asked for: for a kernel without one, the default of transformers."""
        if reference.repo_type == "kernel" and not reference.revision and not reference.is_guess:
            return kernels.get_default_version(reference.repo, self.packages.find_version("torch"))
        return reference.revision

    def _add_reference(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember | None:
        if self.mode == "warn":
            self.reporter.warn(f"{_describe_reference(owner, reference)}, which is not in the bundle")
            return None
        if self.mode == "report":
            self.unlisted.append((owner, reference))
            return None
        if sum(member.is_added for member in self.members) >= _MAX_ADDED_MODELS:
            hint = "name the models that you need in the manifest, and write 'closure: warn'"
            raise ResolveError(
                f"more than {_MAX_ADDED_MODELS} models would be added; {_describe_reference(owner, reference)}",
                hint=hint,
            )
        try:
            member = self._add_model(owner, reference)
        except BundleError as error:
            if isinstance(error, ResolveError) and not reference.module:
                self.reporter.warn(f"{_describe_reference(owner, reference)}, which can't be resolved: {error}")
                return None
            raise error.add_context(_describe_reference(owner, reference)) from error
        size = sum(file.size for file in member.model.files)
        self.reporter.note(
            f"adds {reference.repo} as {member.name} ({pluralize(len(member.model.files), 'file')}, {size:,} bytes): "
            f"{_describe_reference(owner, reference)}"
        )
        return member

    def _add_model(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember:
        """Fetch what is named; a kernel without versions is fetched from its main branch."""
        used_names = {paths.fold_name(member.name) for member in self.members}
        spec = self._make_spec(reference, used_names)
        if reference.revision or not spec.revision:
            return self.add_member(spec, is_added=True)
        try:
            return self.add_member(spec, is_added=True)
        except ResolveError:
            member = self.add_member(dataclasses.replace(spec, revision=None), is_added=True)
        self.reporter.warn(
            f"{_describe_reference(owner, reference)}, which has no {spec.revision}: transformers 5 asks for that; "
            "the bundle has its main branch"
        )
        return member

    def _make_spec(self, reference: Reference, used_names: Iterable[str]) -> ModelSpec:
        """Make the entry for what is named, with an alias that is not used yet."""
        name = reference.repo.rpartition("/")[2]
        alias = reference.repo.replace("/", "-") if paths.fold_name(name) in used_names else name
        include = _CODE_PATTERNS if reference.module else ()
        revision = self._get_revision(reference) or None
        return manifest_entry.make_spec(
            reference.repo, reference.repo_type, revision=revision, alias=alias, include=include
        )

    def _add_problem(self, member: _ClosureMember, problem: str) -> None:
        if member.model.model.loader == "files":
            self.reporter.warn(problem)
        else:
            self.problems.append(problem)

    def _raise_unlisted(self) -> None:
        listed = "\n".join(f"  {_describe_reference(owner, reference)}" for owner, reference in self.unlisted)
        by_repo: dict[tuple[str, str], Reference] = {}
        for _, reference in self.unlisted:  # one entry a repository: all of it where one reference needs all of it
            first = by_repo.setdefault((reference.repo_type, reference.repo), reference)
            module, revision = first.module and reference.module, first.revision or reference.revision
            by_repo[first.repo_type, first.repo] = dataclasses.replace(first, module=module, revision=revision)
        used_names = {paths.fold_name(member.name) for member in self.members}
        lines = []
        for reference in by_repo.values():
            spec = self._make_spec(reference, used_names)
            used_names.add(paths.fold_name(spec.name))
            lines.append(f"  - {manifest_entry.format_entry(spec)}")
        hint = "add these to models, or write 'closure: add':\n" + "\n".join(lines)
        raise ResolveError(f"models need other models that the manifest does not name:\n{listed}", hint=hint)


def _describe_reference(owner: _ClosureMember, reference: Reference) -> str:
    return f"{owner.name}: {reference.file} ({reference.reason}) names {reference.repo}"
