"""Entries that are valid by themselves -> providers, policies and models that fit together.

Every cross-reference is checked here and every problem is collected. What depends only on entries that did
not change is taken over from the build before (`Memo`), so that a reload costs what changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from engine.config.build import build_model, build_policy
from engine.config.declared import REFERENCES
from engine.config.describe import TreePath, suggest
from engine.config.doors import DoorBuilder, find_common_formats
from engine.config.endpoints import (
    ProviderBuilder,
    choose_shelf,
    compile_format_entry,
    find_unknown_traits,
    list_traits,
)
from engine.config.entries import Entry
from engine.config.examples import Stage
from engine.config.name_book import NameBook
from engine.config.naming import Naming
from engine.config.notes import Built, Memo, Notes
from engine.config.schema import CAPABILITIES, ModelEntry
from engine.config.schema_gateway import GatewayFile
from engine.config.schema_provider import EndpointEntry, FormatOverride, ProviderFile
from engine.config.snapshot import Model, Policy, Provider
from engine.errors import Problem
from engine.wire.doors import DoorTable
from engine.wire.formats import Format
from engine.wire.templates import Shelf


@dataclass(slots=True)
class Catalog:
    """Compiles all entries. After `compile`, `problems` is empty or the rest must not be used."""

    gateway: GatewayFile
    gateway_entry: Entry
    simulator_url: str | None
    memo: Memo
    shelf: Shelf | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    formats: dict[str, Format] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    providers: dict[str, Provider] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    names: dict[str, Model] = field(default_factory=dict)
    naming: Naming = field(default_factory=Naming)
    doors: DoorTable = field(default_factory=lambda: DoorTable((), None))
    surfaces: dict[str, Format] = field(default_factory=dict)
    _declared: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def compile(self, entries: Mapping[str, Mapping[str, Entry]]) -> None:
        """Compile formats, policies, providers, then models, each against what is already there."""
        self._declared = {kind: dict(of_kind) for kind, of_kind in entries.items()}
        for kind, of_kind in self._declared.items():
            for entry in of_kind.values():
                self.problems += entry.problems
                if entry.problems and kind == "model":
                    self.problems += self._explain_model(entry)
        self._compile_formats()
        self._compile_policies()
        self._compile_providers()
        self._compile_models()
        self._compile_doors()
        self._name_everything()
        self._check_declared()

    def _check_declared(self) -> None:
        """What a thing that needs no compiling names is there."""
        for kind, path, other in REFERENCES:
            known = self._declared.get(other, {})
            for entry in self.list_entries(kind):
                named: Any = entry.spec
                for step in path:
                    named = getattr(named, step)
                names = named if isinstance(named, tuple) else () if named is None else (named,)
                self.problems += [
                    entry.problem(path, f'no {other} "{name}"{suggest(name, sorted(known))}')
                    for name in names
                    if name not in known
                ]

    def _name_everything(self) -> None:
        book = NameBook(self._declared.get("model", {}), self.providers, self._declared.get("provider", {}))
        book.add_models(self.models.values())
        self.naming = book.add_tables(self.list_entries("names"))
        self.names = book.names
        self.problems += book.problems
        self.warnings += book.warnings

    def list_entries(self, kind: str) -> list[Entry]:
        """The valid entries of one kind."""
        return [entry for entry in self._declared.get(kind, {}).values() if entry.spec is not None]

    def list_specs(self, kind: str) -> dict[str, Any]:
        """What the valid things of one kind say, by name."""
        return {entry.name: entry.spec for entry in self.list_entries(kind)}

    def _take(self, built: Built) -> Any:
        self.problems += built.problems
        self.warnings += built.warnings
        return built.value

    def _compile_formats(self) -> None:
        for entry in self.list_entries("format"):
            make = partial(compile_format_entry, entry, entry.spec, choose_shelf(self.shelf, entry))
            built = self.memo.get(("format", entry), make)
            if (value := self._take(built)) is not None:
                self.formats[entry.name] = value

    def _compile_policies(self) -> None:
        for entry in self.list_entries("policy"):
            built = self.memo.get(("policy", entry), partial(_build_policy, entry))
            if (value := self._take(built)) is not None:
                self.policies[entry.name] = value
        if "default" not in self._declared.get("policy", {}):
            self.problems.append(Problem("policies.d", 0, 0, "", 'no policy "default"'))

    def _compile_providers(self) -> None:
        for entry in self.list_entries("provider"):
            builder = self._make_builder(entry)
            key = ("provider", entry, tuple(builder.formats.items()), builder.server, builder.simulator_url)
            if (value := self._take(self.memo.get(key, builder.build))) is not None:
                self.providers[entry.name] = value

    def try_provider(self, entry: Entry) -> Provider | None:
        """What the entry would be among what is here, without taking it in; None when it has problems."""
        if entry.spec is None:
            return None
        value: Provider | None = self._make_builder(entry).build().value
        return value

    def set_stage(self, entry: Entry) -> Stage:
        """What the examples of a provider need."""

        def fill(variables: Mapping[str, str]) -> Provider | None:
            filled = {**entry.spec.variables, **variables}
            return self.try_provider(replace(entry, spec=entry.spec.model_copy(update={"variables": filled})))

        return Stage(self.surfaces, self.formats, fill)

    def _make_builder(self, entry: Entry) -> ProviderBuilder:
        server = (self.gateway.server.host, self.gateway.server.port)
        simulator_url = self.simulator_url if self.gateway.simulator.enabled is not False else None
        formats = self._find_formats(entry.spec)
        return ProviderBuilder(entry, self._declared["format"], formats, server, simulator_url, self.shelf)

    def _find_formats(self, spec: ProviderFile) -> dict[str, Format | None]:
        """Every format that the provider could need, None where there is no such format."""
        base = spec.format.extends if isinstance(spec.format, FormatOverride) else spec.format
        names = [base]
        if (main := self.formats.get(base)) is not None:
            names += main.siblings.values()
        names += [
            entry.format
            for entry in spec.endpoints.values()
            if isinstance(entry, EndpointEntry) and entry.format is not None
        ]
        return {name: self.formats.get(name) for name in (*names, *spec.also)}

    def _compile_models(self) -> None:
        simulators = tuple(name for name, provider in self.providers.items() if provider.simulator)
        for entry in self.list_entries("model"):
            spec: ModelEntry = entry.spec
            policy = self.policies.get(spec.policy or "default")
            targets = tuple(self.providers.get(target.provider) for target in spec.targets)
            key = (
                "model",
                entry,
                self._declared["policy"].get(spec.policy or "default"),
                targets,
                simulators,
            )
            if policy is None or None in targets:
                self.problems += self._explain_model(entry)
                continue
            make = _ModelMaker(entry, policy, self.providers, simulators)
            if (value := self._take(self.memo.get(key, make))) is not None:
                self.models[entry.name] = value

    def _explain_model(self, entry: Entry) -> list[Problem]:
        """What the model names that is not there. What is declared but broken has its own problem already."""
        notes, tree = Notes(entry), entry.assembled.tree
        self._explain(notes, ("policy",), "policy", tree.get("policy"))
        targets = tree.get("targets")
        for index, target in enumerate(targets if isinstance(targets, list) else ()):
            if isinstance(target, dict):
                self._explain(notes, ("targets", index, "provider"), "provider", target.get("provider"))
        return notes.problems

    def _explain(self, notes: Notes, path: TreePath, kind: str, name: Any) -> None:
        known = self._declared[kind]
        if isinstance(name, str) and name not in known:
            notes.refuse(path, f'no {kind} "{name}"{suggest(name, list(known))}')

    def _compile_doors(self) -> None:
        builder = DoorBuilder()
        for entry in self.list_entries("format"):
            if entry.name in self.formats:
                builder.add(self.formats[entry.name], entry)
        self.problems += builder.problems
        self.warnings += builder.warnings
        self.surfaces = dict(find_common_formats(list(self.formats.values())))
        self.doors = builder.build(self.surfaces.get("chat"))


def _build_policy(entry: Entry) -> Built:
    notes = Notes(entry)
    return notes.built(build_policy(entry.spec))


@dataclass(frozen=True, slots=True)
class _ModelMaker:
    """Checks and builds one model whose policy and providers are there."""

    entry: Entry
    policy: Policy
    providers: Mapping[str, Provider]
    simulators: tuple[str, ...]

    def __call__(self) -> Built:
        spec: ModelEntry = self.entry.spec
        notes = Notes(self.entry)
        self._check_names(spec, notes)
        self._check_targets(spec, notes)
        self._check_traits(spec, notes)
        _check_facts(spec, notes)
        model = build_model(self.entry.name, spec, spec.aliases, self.providers, self.policy)
        if self.policy.billing.unknown_price == "refuse" and any(
            target.price is None for target in model.targets
        ):
            notes.warn((), "has no price; its calls are refused (policy: unknown_price: refuse)")
        elif self.policy.billing.unknown_price == "free" and any(
            target.price is None and target.provider.unknown_price is None for target in model.targets
        ):
            notes.warn((), "has no price; its calls are free of charge (policy: unknown_price: free)")
        return notes.built(model)

    def _check_names(self, spec: ModelEntry, notes: Notes) -> None:
        named: list[tuple[TreePath, str]] = [((), self.entry.name)]
        named += [(("aliases", index), alias) for index, alias in enumerate(spec.aliases)]
        for path, name in named:
            if name.partition("/")[0] in self.simulators and "/" in name:
                notes.refuse(path, f'names that begin with "{name.partition("/")[0]}/" are the simulator\'s')
            if not name or any(character.isspace() for character in name):
                notes.refuse(path, "a model's name must not be empty or contain spaces")

    def _check_traits(self, spec: ModelEntry, notes: Notes) -> None:
        if self.entry.thing.shipped:
            return  # a user's provider may have taken a shipped name and speak another wire
        known: list[str] = []
        for index, target in enumerate(spec.targets):
            here = list_traits(self.providers[target.provider].all_endpoints)
            known += here
            for path, message in find_unknown_traits(("targets", index, "traits"), target.traits, here):
                notes.refuse(path, message)
        for path, message in find_unknown_traits(("traits",), spec.traits, known):
            notes.refuse(path, message)

    def _check_targets(self, spec: ModelEntry, notes: Notes) -> None:
        seen: set[tuple[str, str]] = set()
        for index, target in enumerate(spec.targets):
            if target.provider in self.simulators:
                notes.refuse(("targets", index, "provider"), "the simulator is never a target of a model")
            if (target.provider, target.model) in seen:
                notes.warn(("targets", index), "is the same target as an earlier one")
            seen.add((target.provider, target.model))
        if spec.strategy == "weighted" and not any(target.weight for target in spec.targets):
            notes.refuse(("strategy",), "weighted needs a target with a weight above 0")


def _check_facts(spec: ModelEntry, notes: Notes) -> None:
    for index, word in enumerate(spec.capabilities):
        if word not in CAPABILITIES:
            notes.warn(("capabilities", index), f'unknown capability "{word}"{suggest(word, CAPABILITIES)}')
    limits = spec.limits
    if limits.context and limits.output and limits.output > limits.context:
        notes.refuse(("limits", "output"), "is larger than limits.context")
