"""What a model will reach for that nobody named: found in its files, pinned, and added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bundler.errors import BundleError, ResolveError
from bundler.format import paths
from bundler.format.lock.entries import Artifact, Edge, Model
from bundler.online.inspection import kernels, references, remote_code
from bundler.online.inspection.references import Reference
from bundler.online.manifest.schema import WantedModel
from bundler.online.models import manifest_entry
from bundler.online.models.model_resolution import Carried
from bundler.online.packages.bundled_packages import Provided
from bundler.progress import Report, counted

Bring = Callable[[WantedModel], Carried]
_MOST = 50
"""Models that a manifest's models may bring along: more is a chain that somebody should look at."""
_CODE = ("*.py",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """The models of a manifest and those that they need, and which file of which needs what."""

    carried: tuple[Carried, ...]
    edges: tuple[Edge, ...]


def closed(asked: Sequence[WantedModel], mode: str, bring: Bring, provided: Provided, report: Report) -> Closed:
    """Follow what the models' files name until nothing new is found.

    ``mode`` is the manifest's ``closure``: "add" adds what is found, "report" makes it an error that says how to ask
    for it, "warn" leaves it out. Raises ResolveError for what can't be had or is missing, and what ``bring`` raises.
    """
    search = _Search(mode=mode, bring=bring, provided=provided, report=report)
    for wanted in asked:
        search.take(wanted)
    search.follow()
    return Closed(carried=tuple(one.carried for one in search.members), edges=tuple(dict.fromkeys(search.edges)))


def again(model: Model, files: Iterable[Artifact]) -> WantedModel:
    """What asks for a model that was added to a kept lock: the very same files of the same repository."""
    inside = (one.path[len(model.folder) :] for one in files)
    return manifest_entry.model(
        model.source.partition(":")[2].rpartition("@")[0],
        model.repo_type,
        alias=model.alias,
        include=tuple(name.replace("[", "[[]") for name in inside),
    )


@dataclass(slots=True)
class _Member:
    """A model of the bundle, and what asked for it; ``added`` where that was no person."""

    wanted: WantedModel
    carried: Carried
    added: bool = False

    @property
    def name(self) -> str:
        """Its alias."""
        return self.wanted.name

    @property
    def revisions(self) -> set[str]:
        """The revisions by which the hub view will know it; "" for none in particular."""
        return {"", "main", self.carried.model.commit, *self.carried.model.revisions}


@dataclass(slots=True)
class _Search:
    """What is known so far. ``faults`` stop the build where somebody's model would not load, and are said else."""

    mode: str
    bring: Bring
    provided: Provided
    report: Report
    members: list[_Member] = field(default_factory=list)
    waiting: list[_Member] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unasked: list[tuple[_Member, Reference]] = field(default_factory=list)

    def take(self, wanted: WantedModel, *, added: bool = False) -> _Member:
        """Bring a model home; it is looked through later."""
        try:
            carried = self.bring(wanted)
        except remote_code.UntoldError as error:
            raise error.listing(self._foreign(error.foreign)) from error
        member = _Member(wanted, carried, added)
        self.members.append(member)
        self.waiting.append(member)
        return member

    def _foreign(self, named: Sequence[Reference]) -> list[str]:
        """The files of other repositories that would run, fetched so that somebody can say which."""
        modules: dict[tuple[str, str], list[str]] = {}
        for one in named:
            modules.setdefault((one.repo, one.revision), []).append(one.module)
        found: list[str] = []
        for (repo, revision), asked in sorted(modules.items()):
            wanted = manifest_entry.model(
                repo, "model", revision=revision or None, alias=repo.rpartition("/")[2], include=_CODE
            )
            try:
                holder = self.bring(wanted)
            except BundleError as error:
                names = ", ".join(dict.fromkeys(asked))
                found.append(f"{names} of {repo} and what that imports, which can't be listed: {error}")
                continue
            found += remote_code.listed(asked, holder.names, holder.read, of=repo)
        return found

    def follow(self) -> None:
        """Look through every member, and through those that this adds; raises ResolveError."""
        while self.waiting:
            member = self.waiting.pop(0)
            try:
                self._look_through(member)
            except references.UnreadableError as error:
                self._fault(member, f"{member.name}: {error}")
        if self.unasked:
            self._refuse_unasked()
        if self.faults:
            listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(self.faults))
            hint = "complete the sources, or change include and exclude, which may have removed files; add packages to python.requirements"
            raise ResolveError(f"some models would not load on the host:\n{listed}", hint=hint)

    def _look_through(self, member: _Member) -> None:
        names, read = member.carried.names, member.carried.read
        if member.wanted.repo_type != "model":
            for reference in kernels.needed(names, read) if member.wanted.kernel else ():
                self._reach(member, reference)
            return
        found = references.models(names, read)
        if member.wanted.trust_remote_code is not False:
            found = [*references.code(names, read), *found]
        waiting = [(member, one) for one in found]
        seen: set[tuple[str, str]] = set()
        while waiting:
            owner, reference = waiting.pop(0)
            target = self._reach(owner, reference)
            if target is None:
                continue
            if reference.module and (target.name, reference.module) not in seen:
                seen.add((target.name, reference.module))
                waiting += self._look_into(member, reference, target)
        for words in references.unclear(names, read):
            self.report.warn(f"{member.name}: {words}; whoever loads it must bring that")
        for need in references.needs(names, read):
            if self.provided.lacks_all(need.packages):
                self._fault(member, f"{member.name}: {need.file} ({need.reason}) needs the package {need.words}")

    def _reach(self, owner: _Member, reference: Reference) -> _Member | None:
        """What is meant, noted down as needed; None where it stays behind."""
        target = self._target(owner, reference)
        if target is not None and target is not owner:
            edge = Edge(model=owner.name, file=reference.file, reason=reference.reason, to=target.name)
            self.edges.append(edge)
        return target

    def _look_into(self, member: _Member, reference: Reference, holder: _Member) -> list[tuple[_Member, Reference]]:
        """What the code that runs for a member fetches by itself; what it lacks is a fault."""
        names, read = holder.carried.names, holder.carried.read
        running, missing = remote_code.running([reference.module], names, read)
        where = f"{member.name}: {reference.file} ({reference.reason})"
        for name in missing:
            self._fault(member, f"{where} runs {name}, which is not among the files of {holder.name}")
        own = member.carried
        configuration = references.document("config.json", own.read) if "config.json" in own.names else {}
        fetched = []
        for name in running:
            try:
                lacked = self.provided.lacked(remote_code.packages(name, read))
                fetched += [(holder, one) for one in remote_code.fetched(name, read, configuration)]
            except references.UnreadableError as error:  # it may be for a newer Python than this one
                self.report.warn(f"{where} runs it: {error}; what it imports and fetches is not known")
                continue
            if lacked:
                self._fault(member, f"{where} runs {name}, which imports {', '.join(lacked)}: in no package here")
        return fetched

    def _target(self, owner: _Member, reference: Reference) -> _Member | None:
        """The model that is meant, brought home where it is not here; None where it stays behind."""
        meant = (reference.repo_type, reference.repo)
        if not reference.repo or meant == (owner.wanted.repo_type, owner.wanted.hub_id):
            return owner
        known = next((m for m in self.members if (m.wanted.repo_type, m.wanted.hub_id) == meant), None)
        if known is None:
            return self._added(owner, reference)
        if (revision := self._revision(reference)) not in known.revisions:
            self._differs(owner, reference, revision, known)
        if known.added and known.wanted.include == _CODE and not reference.module:
            known.wanted = dataclasses.replace(known.wanted, include=())
            known.carried = self.bring(known.wanted)
            self.waiting.append(known)
        return known

    def _differs(self, owner: _Member, reference: Reference, revision: str, known: _Member) -> None:
        """A revision is named that is not the one here: an error where it is certain that somebody will ask for it."""
        said = f"{_said(owner, reference)} at revision {revision}, and the bundle has another one of it"
        if self.mode == "warn" or reference.guess or not reference.revision:
            self.report.warn(f"{said}: whoever asks for that revision will not find it")
            return
        include = known.wanted.include if reference.module else ()
        loader = "files" if known.added else known.wanted.loader
        wanted = dataclasses.replace(
            manifest_entry.model(
                reference.repo, reference.repo_type, revision=revision, alias=known.name, include=include
            ),
            loader=loader,
        )
        what = "add to models" if known.added else f"put in models in place of what asks for {known.name}"
        hint = f"if all that use it can do with that revision, {what}:\n  - {manifest_entry.line(wanted)}"
        raise ResolveError(said, where=f"models: {known.name}", hint=hint)

    def _revision(self, reference: Reference) -> str:
        """The revision that is asked for: of a kernel where a configuration names none, that of the library."""
        if reference.repo_type == "kernel" and not reference.revision and not reference.guess:
            return kernels.version(reference.repo, self.provided.version("torch"))
        return reference.revision

    def _added(self, owner: _Member, reference: Reference) -> _Member | None:
        if self.mode == "warn":
            self.report.warn(f"{_said(owner, reference)}, which is not in the bundle")
            return None
        if self.mode == "report":
            self.unasked.append((owner, reference))
            return None
        if sum(member.added for member in self.members) >= _MOST:
            hint = "name the models that are needed in the manifest, and say 'closure: warn'"
            raise ResolveError(f"more than {_MOST} models would be added; {_said(owner, reference)}", hint=hint)
        try:
            member = self._brought(owner, reference)
        except BundleError as error:
            if isinstance(error, ResolveError) and not reference.module:
                self.report.warn(f"{_said(owner, reference)}, which can't be found: {error}")
                return None
            raise error.in_context(_said(owner, reference)) from error
        size = sum(file.size for file in member.carried.files)
        self.report.note(
            f"adds {reference.repo} as {member.name} ({counted(len(member.carried.files), 'file')}, {size:,} bytes): "
            f"{_said(owner, reference)}"
        )
        return member

    def _brought(self, owner: _Member, reference: Reference) -> _Member:
        """What is named, brought home; a kernel that has no versions comes as its main branch has it."""
        taken = {paths.folded(member.name) for member in self.members}
        wanted = self._asked(reference, taken)
        if reference.revision or not wanted.revision:
            return self.take(wanted, added=True)
        try:
            return self.take(wanted, added=True)
        except ResolveError:
            member = self.take(dataclasses.replace(wanted, revision=None), added=True)
        said = f"{_said(owner, reference)}, which has no {wanted.revision}: transformers 5 would ask for that"
        self.report.warn(f"{said}; its main branch is carried")
        return member

    def _asked(self, reference: Reference, taken: Iterable[str]) -> WantedModel:
        """What asks for what is named, by a name that is not taken."""
        last = reference.repo.rpartition("/")[2]
        alias = reference.repo.replace("/", "-") if paths.folded(last) in taken else last
        include = _CODE if reference.module else ()
        revision = self._revision(reference) or None
        return manifest_entry.model(
            reference.repo, reference.repo_type, revision=revision, alias=alias, include=include
        )

    def _fault(self, member: _Member, fault: str) -> None:
        if member.carried.model.loader == "files":
            self.report.warn(fault)
        else:
            self.faults.append(fault)

    def _refuse_unasked(self) -> None:
        why = "\n".join(f"  {_said(owner, reference)}" for owner, reference in self.unasked)
        named: dict[tuple[str, str], Reference] = {}
        for _, one in self.unasked:  # one line for each repository: whole where one reference needs it whole
            first = named.setdefault((one.repo_type, one.repo), one)
            module, revision = first.module and one.module, first.revision or one.revision
            named[one.repo_type, one.repo] = dataclasses.replace(first, module=module, revision=revision)
        taken = {paths.folded(member.name) for member in self.members}
        lines = []
        for reference in named.values():
            wanted = self._asked(reference, taken)
            taken.add(paths.folded(wanted.name))
            lines.append(f"  - {manifest_entry.line(wanted)}")
        hint = "add to models, or say 'closure: add':\n" + "\n".join(lines)
        raise ResolveError(f"models reach for what the manifest does not name:\n{why}", hint=hint)


def _said(owner: _Member, reference: Reference) -> str:
    return f"{owner.name}: {reference.file} ({reference.reason}) names {reference.repo}"
