"""What a model will reach for that nobody named: found in its files, pinned, and added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bundler.errors import BundleError, ResolveError
from bundler.format import paths
from bundler.format.lock.entries import Artifact, Model, ModelDependency
from bundler.online.inspection import kernels, references, remote_code
from bundler.online.inspection.references import Reference
from bundler.online.manifest.schema import ModelSpec
from bundler.online.models import manifest_entry
from bundler.online.models.model_resolution import ResolvedModel
from bundler.online.packages.bundled_packages import BundledPackages
from bundler.progress import Reporter, pluralize

ResolveModel = Callable[[ModelSpec], ResolvedModel]
_MAX_ADDED_MODELS = 50
"""Models that a manifest's models may bring along: more is a chain that somebody should look at."""
_CODE_PATTERNS = ("*.py",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelClosure:
    """The models of a manifest and those that they need, and which file of which needs what."""

    models: tuple[ResolvedModel, ...]
    edges: tuple[ModelDependency, ...]


def find_closure(
    specs: Sequence[ModelSpec], mode: str, resolve_model: ResolveModel, packages: BundledPackages, reporter: Reporter
) -> ModelClosure:
    """Follow what the models' files name until nothing new is found.

    ``mode`` is the manifest's ``closure``: "add" adds what is found, "report" makes it an error that says how to ask
    for it, "warn" leaves it out. Raises ResolveError for what can't be had or is missing, and what ``bring`` raises.
    """
    search = _ClosureSearch(mode=mode, resolve_model=resolve_model, packages=packages, reporter=reporter)
    for wanted in specs:
        search.add_member(wanted)
    search.run()
    return ModelClosure(models=tuple(one.model for one in search.members), edges=tuple(dict.fromkeys(search.edges)))


def make_spec_from_lock(model: Model, files: Iterable[Artifact]) -> ModelSpec:
    """What asks for a model that was added to a kept lock: the very same files of the same repository."""
    inside = (one.path[len(model.folder) :] for one in files)
    return manifest_entry.make_spec(
        model.source.partition(":")[2].rpartition("@")[0],
        model.repo_type,
        alias=model.alias,
        include=tuple(name.replace("[", "[[]") for name in inside),
    )


@dataclass(slots=True)
class _ClosureMember:
    """A model of the bundle, and what asked for it; ``added`` where that was no person."""

    spec: ModelSpec
    model: ResolvedModel
    is_added: bool = False

    @property
    def name(self) -> str:
        """Its alias."""
        return self.spec.name

    @property
    def revisions(self) -> set[str]:
        """The revisions by which the hub view will know it; "" for none in particular."""
        return {"", "main", self.model.model.commit, *self.model.model.revisions}


@dataclass(slots=True)
class _ClosureSearch:
    """What is known so far. ``faults`` stop the build where somebody's model would not load, and are said else."""

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
        """Bring a model home; it is looked through later."""
        try:
            carried = self.resolve_model(spec)
        except remote_code.TrustDecisionMissingError as error:
            raise error.with_files(self._list_external_code(error.external_references)) from error
        member = _ClosureMember(spec, carried, is_added)
        self.members.append(member)
        self.pending.append(member)
        return member

    def _list_external_code(self, external: Sequence[Reference]) -> list[str]:
        """The files of other repositories that would run, fetched so that somebody can say which."""
        modules: dict[tuple[str, str], list[str]] = {}
        for one in external:
            modules.setdefault((one.repo, one.revision), []).append(one.module)
        found: list[str] = []
        for (repo, revision), asked in sorted(modules.items()):
            wanted = manifest_entry.make_spec(
                repo, "model", revision=revision or None, alias=repo.rpartition("/")[2], include=_CODE_PATTERNS
            )
            try:
                holder = self.resolve_model(wanted)
            except BundleError as error:
                names = ", ".join(dict.fromkeys(asked))
                found.append(f"{names} of {repo} and what that imports, which can't be listed: {error}")
                continue
            found += remote_code.list_running_files(asked, holder.file_names, holder.read_file, repo=repo)
        return found

    def run(self) -> None:
        """Look through every member, and through those that this adds; raises ResolveError."""
        while self.pending:
            member = self.pending.pop(0)
            try:
                self._inspect_member(member)
            except references.UnreadableFileError as error:
                self._add_problem(member, f"{member.name}: {error}")
        if self.unlisted:
            self._raise_unlisted()
        if self.problems:
            listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(self.problems))
            hint = "complete the sources, or change include and exclude, which may have removed files; add packages to python.requirements"
            raise ResolveError(f"some models would not load on the host:\n{listed}", hint=hint)

    def _inspect_member(self, member: _ClosureMember) -> None:
        names, read = member.model.file_names, member.model.read_file
        if member.spec.repo_type != "model":
            for reference in kernels.find_dependencies(names, read) if member.spec.kernel else ():
                self._follow_reference(member, reference)
            return
        found = references.find_models(names, read)
        if member.spec.trust_remote_code is not False:
            found = [*references.find_code(names, read), *found]
        waiting = [(member, one) for one in found]
        seen: set[tuple[str, str]] = set()
        while waiting:
            owner, reference = waiting.pop(0)
            target = self._follow_reference(owner, reference)
            if target is None:
                continue
            if reference.module and (target.name, reference.module) not in seen:
                seen.add((target.name, reference.module))
                waiting += self._inspect_code(member, reference, target)
        for words in references.find_unclear_bases(names, read):
            self.reporter.warn(f"{member.name}: {words}; whoever loads it must bring that")
        for need in references.find_required_packages(names, read):
            if self.packages.has_none(need.packages):
                self._add_problem(member, f"{member.name}: {need.file} ({need.reason}) needs the package {need.text}")

    def _follow_reference(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember | None:
        """What is meant, noted down as needed; None where it stays behind."""
        target = self._find_or_add(owner, reference)
        if target is not None and target is not owner:
            edge = ModelDependency(model=owner.name, file=reference.file, reason=reference.reason, to=target.name)
            self.edges.append(edge)
        return target

    def _inspect_code(
        self, member: _ClosureMember, reference: Reference, holder: _ClosureMember
    ) -> list[tuple[_ClosureMember, Reference]]:
        """What the code that runs for a member fetches by itself; what it lacks is a fault."""
        names, read = holder.model.file_names, holder.model.read_file
        running, missing = remote_code.find_running_files([reference.module], names, read)
        where = f"{member.name}: {reference.file} ({reference.reason})"
        for name in missing:
            self._add_problem(member, f"{where} runs {name}, which is not among the files of {holder.name}")
        own = member.model
        configuration = (
            references.read_json_object("config.json", own.read_file) if "config.json" in own.file_names else {}
        )
        fetched = []
        for name in running:
            try:
                lacked = self.packages.find_missing_modules(remote_code.find_imported_packages(name, read))
                fetched += [(holder, one) for one in remote_code.find_hub_calls(name, read, configuration)]
            except references.UnreadableFileError as error:  # it may be for a newer Python than this one
                self.reporter.warn(f"{where} runs it: {error}; what it imports and fetches is not known")
                continue
            if lacked:
                self._add_problem(member, f"{where} runs {name}, which imports {', '.join(lacked)}: in no package here")
        return fetched

    def _find_or_add(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember | None:
        """The model that is meant, brought home where it is not here; None where it stays behind."""
        meant = (reference.repo_type, reference.repo)
        if not reference.repo or meant == (owner.spec.repo_type, owner.spec.hub_id):
            return owner
        known = next((m for m in self.members if (m.spec.repo_type, m.spec.hub_id) == meant), None)
        if known is None:
            return self._add_reference(owner, reference)
        if (revision := self._get_revision(reference)) not in known.revisions:
            self._report_revision_conflict(owner, reference, revision, known)
        if known.is_added and known.spec.include == _CODE_PATTERNS and not reference.module:
            known.spec = dataclasses.replace(known.spec, include=())
            known.model = self.resolve_model(known.spec)
            self.pending.append(known)
        return known

    def _report_revision_conflict(
        self, owner: _ClosureMember, reference: Reference, revision: str, existing: _ClosureMember
    ) -> None:
        """A revision is named that is not the one here: an error where it is certain that somebody will ask for it."""
        said = f"{_describe_reference(owner, reference)} at revision {revision}, and the bundle has another one of it"
        if self.mode == "warn" or reference.is_guess or not reference.revision:
            self.reporter.warn(f"{said}: whoever asks for that revision will not find it")
            return
        include = existing.spec.include if reference.module else ()
        loader = "files" if existing.is_added else existing.spec.loader
        wanted = dataclasses.replace(
            manifest_entry.make_spec(
                reference.repo, reference.repo_type, revision=revision, alias=existing.name, include=include
            ),
            loader=loader,
        )
        what = "add to models" if existing.is_added else f"put in models in place of what asks for {existing.name}"
        hint = f"if all that use it can do with that revision, {what}:\n  - {manifest_entry.format_entry(wanted)}"
        raise ResolveError(said, where=f"models: {existing.name}", hint=hint)

    def _get_revision(self, reference: Reference) -> str:
        """The revision that is asked for: of a kernel where a configuration names none, that of the library."""
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
            hint = "name the models that are needed in the manifest, and say 'closure: warn'"
            raise ResolveError(
                f"more than {_MAX_ADDED_MODELS} models would be added; {_describe_reference(owner, reference)}",
                hint=hint,
            )
        try:
            member = self._add_model(owner, reference)
        except BundleError as error:
            if isinstance(error, ResolveError) and not reference.module:
                self.reporter.warn(f"{_describe_reference(owner, reference)}, which can't be found: {error}")
                return None
            raise error.add_context(_describe_reference(owner, reference)) from error
        size = sum(file.size for file in member.model.files)
        self.reporter.note(
            f"adds {reference.repo} as {member.name} ({pluralize(len(member.model.files), 'file')}, {size:,} bytes): "
            f"{_describe_reference(owner, reference)}"
        )
        return member

    def _add_model(self, owner: _ClosureMember, reference: Reference) -> _ClosureMember:
        """What is named, brought home; a kernel that has no versions comes as its main branch has it."""
        taken = {paths.fold_name(member.name) for member in self.members}
        wanted = self._make_spec(reference, taken)
        if reference.revision or not wanted.revision:
            return self.add_member(wanted, is_added=True)
        try:
            return self.add_member(wanted, is_added=True)
        except ResolveError:
            member = self.add_member(dataclasses.replace(wanted, revision=None), is_added=True)
        said = f"{_describe_reference(owner, reference)}, which has no {wanted.revision}: transformers 5 would ask for that"
        self.reporter.warn(f"{said}; its main branch is carried")
        return member

    def _make_spec(self, reference: Reference, used_names: Iterable[str]) -> ModelSpec:
        """What asks for what is named, by a name that is not taken."""
        last = reference.repo.rpartition("/")[2]
        alias = reference.repo.replace("/", "-") if paths.fold_name(last) in used_names else last
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
        why = "\n".join(f"  {_describe_reference(owner, reference)}" for owner, reference in self.unlisted)
        named: dict[tuple[str, str], Reference] = {}
        for _, one in self.unlisted:  # one line for each repository: whole where one reference needs it whole
            first = named.setdefault((one.repo_type, one.repo), one)
            module, revision = first.module and one.module, first.revision or one.revision
            named[one.repo_type, one.repo] = dataclasses.replace(first, module=module, revision=revision)
        taken = {paths.fold_name(member.name) for member in self.members}
        lines = []
        for reference in named.values():
            wanted = self._make_spec(reference, taken)
            taken.add(paths.fold_name(wanted.name))
            lines.append(f"  - {manifest_entry.format_entry(wanted)}")
        hint = "add to models, or say 'closure: add':\n" + "\n".join(lines)
        raise ResolveError(f"models reach for what the manifest does not name:\n{why}", hint=hint)


def _describe_reference(owner: _ClosureMember, reference: Reference) -> str:
    return f"{owner.name}: {reference.file} ({reference.reason}) names {reference.repo}"
