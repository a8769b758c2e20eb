"""One provider: its address judged, its wire formats found or compiled, its endpoints laid out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from engine.config.addresses import judge_base_url, sends_in_the_clear
from engine.config.build import build_provider
from engine.config.describe import TreePath, suggest
from engine.config.entries import Entry
from engine.config.notes import Built, Notes
from engine.config.references import Unset, list_references
from engine.config.schema_auth import CredentialEntry, KeyEntry
from engine.config.schema_provider import EndpointEntry, FormatOverride, ProviderFile
from engine.config.snapshot import Endpoint, Target
from engine.wire.formats import Format, FormatRefused, compile_format, compile_readings
from engine.wire.listings import ListingRefused, compile_listing
from engine.wire.templates import Shelf, TemplateRefused, compile_template, merge_trees


def compile_format_entry(
    entry: Entry, tree: Mapping[str, Any], shelf: Shelf | None, base: Format | None = None
) -> Built:
    """The format of `tree`; of `base` only usage and errors are read anew, which costs next to nothing."""
    leaves = entry.assembled.tree.get("format")
    notes = Notes(entry)
    try:
        return notes.built(
            compile_format(tree, shelf=shelf) if base is None else compile_readings(base, tree)
        )
    except FormatRefused as refused:
        for path, message in refused.problems:
            is_below = isinstance(leaves, Mapping) and path and path[0] in leaves  # a provider's own leaves
            notes.refuse(("format", *path) if is_below else path, message)
    return notes.built(None)


def choose_shelf(shelf: Shelf | None, *entries: Entry) -> Shelf | None:
    """None when a `${...}` of a format was filled: what it held is not written down."""
    return None if any(_is_filled(entry) for entry in entries) else shelf


def _is_filled(entry: Entry) -> bool:
    if not any(link.refs for link in entry.assembled.chain):
        return False
    tree = entry.assembled.tree
    written = tree.get("format") if entry.thing.kind == "provider" else tree
    return next(list_references(written), None) is not None


def list_traits(endpoints: Mapping[str, Endpoint]) -> list[str]:
    """Every trait that one of these endpoints' wires has."""
    return list(dict.fromkeys(name for endpoint in endpoints.values() for name in endpoint.format.traits))


def quote_path(model: str) -> str:
    """A model's id as steps of a path. One with steps that lead elsewhere stays a single step."""
    leads_away = any(step in ("", ".", "..") for step in model.split("/"))
    return quote(model, safe=":@" if leads_away else ":@/")


def find_unknown_traits(
    path: TreePath, traits: Mapping[str, Any], known: Sequence[str]
) -> Iterator[tuple[TreePath, str]]:
    """A trait that no wire declares is a slip of the pen, or meant for another wire."""
    for name in traits:
        if name not in known:
            yield (*path, name), f'no trait "{name}" on this wire{suggest(name, known)}'


READINGS = frozenset(("usage", "errors"))


@dataclass
class ProviderBuilder:
    """Builds one provider with its endpoints."""

    entry: Entry
    known_formats: Mapping[str, Entry]
    formats: Mapping[str, Format | None]
    server: tuple[str, int]
    simulator_url: str | None
    shelf: Shelf | None

    def __post_init__(self) -> None:
        self.notes = Notes(self.entry)
        self.spec: ProviderFile = self.entry.spec

    def build(self) -> Built:
        self._variables = {
            name: "" if isinstance(value, Unset) else value for name, value in self.spec.variables.items()
        }
        self._fill_base_url()
        self._check_urls()
        endpoints, also = self._build_endpoints(), self._build_also()
        self._check_traits({**endpoints, **also})
        self._check_listing()
        return self.notes.built(build_provider(self.spec, endpoints, also, self.simulator_url))

    def _check_traits(self, endpoints: Mapping[str, Endpoint]) -> None:
        if endpoints:
            known = list_traits(endpoints)
            for path, message in find_unknown_traits(("traits",), self.spec.traits, known):
                self.notes.refuse(path, message)

    def _check_listing(self) -> None:
        if self.spec.models is None:
            return
        try:
            compile_listing(self.spec.models.model_dump(exclude_none=True))
        except ListingRefused as refused:
            self.notes.refuse(("models", refused.field), str(refused))

    def _fill_base_url(self) -> None:
        """A base URL may be made of the provider's variables."""
        url = self.spec.base_url
        if not isinstance(url, str) or "{{" not in url:
            return
        unset = next((value for value in self.spec.variables.values() if isinstance(value, Unset)), None)
        try:
            filled = unset or str(compile_template(url, ("target",))({"variables": self._variables}))
        except TemplateRefused as refused:
            self.notes.refuse(("base_url",), str(refused))
            return
        self.spec = self.spec.model_copy(update={"base_url": filled})

    def _check_urls(self) -> None:
        urls: list[tuple[TreePath, Any]] = [(("base_url",), self.spec.base_url)]
        auth = self.spec.auth
        lists: dict[str, Sequence[KeyEntry | CredentialEntry] | None] = {
            "bearer": auth.bearer,
            "basic": auth.basic,
            "sigv4": auth.sigv4,
            "google_service_account": auth.google_service_account,
        }
        for kind, keys in lists.items():
            urls += [
                (("auth", kind, index, "base_url"), key.base_url) for index, key in enumerate(keys or ())
            ]
        for path, url in urls:
            if isinstance(url, str):
                self._check_url(path, url)

    def _check_url(self, path: TreePath, url: str) -> None:
        wrong = judge_base_url(url, self.spec.allow_private, self.server)
        if wrong is not None:
            self.notes.refuse(path, wrong)
        elif sends_in_the_clear(url):
            self.notes.warn(path, "http:// sends the credential in the clear")

    def _build_endpoints(self) -> dict[str, Endpoint]:
        main = self._find_main_format()
        if main is None:
            return {}
        wanted: dict[str, Format | None] = {main.operation: main}
        for operation, name in main.siblings.items():
            wanted.setdefault(operation, self.formats.get(name))
        endpoints: dict[str, Endpoint] = {}
        for operation in dict.fromkeys((*wanted, *self.spec.endpoints)):
            entry = self.spec.endpoints.get(operation, EndpointEntry())  # type: ignore[call-overload]
            if not isinstance(entry, EndpointEntry):
                continue
            if entry.format is None and operation not in wanted:
                self.notes.refuse(
                    ("endpoints", operation), "needs a `format`: the provider's has no sibling for it"
                )
            endpoint = self._build_endpoint(operation, entry, wanted.get(operation))
            if endpoint is not None:
                endpoints[operation] = endpoint
        return endpoints

    def _build_also(self) -> dict[str, Endpoint]:
        """The other wires, by their formats' names."""
        also: dict[str, Endpoint] = {}
        for name, entry in self.spec.also.items():
            if name not in self.known_formats:
                near = suggest(name, list(self.known_formats))
                self.notes.refuse(("also", name), f'no wire format "{name}"{near}')
            endpoint = self._build_endpoint(name, entry, self.formats.get(name))
            if endpoint is not None:
                also[name] = endpoint
        return also

    def _build_endpoint(self, operation: str, entry: EndpointEntry, format: Format | None) -> Endpoint | None:
        if entry.format is not None:
            format = self._find_format(("endpoints", operation, "format"), entry.format)
        if format is None:
            return None
        path, stream_path = entry.path or format.path, entry.stream_path
        if stream_path is None and entry.path is None and format.stream_path != format.path:
            stream_path = format.stream_path
        traits = {**format.traits, **self.spec.traits}
        return Endpoint(
            format,
            self._compile_path(operation, path, traits),
            traits,
            None if stream_path is None else self._compile_path(operation, stream_path, traits),
        )

    def _compile_path(
        self, operation: str, path: str, traits: Mapping[str, Any]
    ) -> Callable[[Target], str] | str:
        """A path that names the model: `/models/{{ target.model }}:generateContent`."""
        if "{{" not in path:
            return path
        variables = self._variables
        try:
            render = compile_template(path, ("target",))
        except TemplateRefused as refused:
            self.notes.refuse(("endpoints", operation, "path"), str(refused))
            return path
        return lambda target: str(
            render(
                {
                    "model": quote(target.model, safe=":@"),
                    "model_path": quote_path(target.model),
                    "traits": {**traits, **target.traits},
                    "variables": variables,
                }
            )
        )

    def _find_main_format(self) -> Format | None:
        chosen = self.spec.format
        path: TreePath = ("format", "extends") if isinstance(chosen, FormatOverride) else ("format",)
        name = chosen.extends if isinstance(chosen, FormatOverride) else chosen
        base = self._find_format(path, name)
        override = self._list_overrides()
        if base is None or not override:
            return base
        tree = merge_trees(self.known_formats[name].spec, override)
        shelf = choose_shelf(self.shelf, self.entry, self.known_formats[name])
        built = compile_format_entry(self.entry, tree, shelf, base if override.keys() <= READINGS else None)
        self.notes.problems += built.problems
        value: Format | None = built.value
        return value

    def _list_overrides(self) -> dict[str, Any]:
        """The leaves of its format that this provider has otherwise."""
        spec = self.spec
        override: dict[str, Any] = {}
        if isinstance(spec.format, FormatOverride):
            override = dict(spec.format.model_extra or {})
        if spec.usage is not None:
            override = merge_trees(
                override, {"usage": spec.usage.model_dump(by_alias=True, exclude_none=True)}
            )
        if spec.errors is not None:
            override = merge_trees(override, {"errors": spec.errors})
        return override

    def _find_format(self, path: TreePath, name: str) -> Format | None:
        if name not in self.known_formats:
            # As it stands in the file: what a ${...} held is not shown.
            written: Any = self.entry.assembled.tree
            for step in path:
                written = written[step]
            self.notes.refuse(path, f'no wire format "{written}"{suggest(name, list(self.known_formats))}')
        return self.formats.get(name)
