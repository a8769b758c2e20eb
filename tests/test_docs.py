"""The documentation says what the code has: every name is described, examples load, links lead somewhere."""

import argparse
import ast
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from engine.app import PROXY_VARIABLES, WorkerApp, create_worker_app
from engine.billing.books import write_record
from engine.call import Attempt, Call
from engine.cli import build_parser, main
from engine.config.declared import DECLARED
from engine.config.describe import _find_models
from engine.config.reload import Loader, Runtime
from engine.config.schema import CAPABILITIES, ModelsFile
from engine.config.schema_base import FailureWord
from engine.config.schema_gateway import GatewayFile
from engine.config.schema_names import NamesFile
from engine.config.schema_policy import PolicyFile
from engine.config.schema_provider import ProviderFile
from engine.config.settings import Settings, read_settings
from engine.errors import GatewayError
from engine.http.routes import NOT_BUILT
from engine.policies.refusals import HEADER_NAMES
from engine.serve import protocol
from engine.storage.calls import FIELDS, FILTERS
from engine.telemetry.families import FAMILIES
from engine.wire import canonical
from engine.wire.accepts import _SHAPES
from engine.wire.blocks import _CONTROL, JOINED, LISTED
from engine.wire.expressions import TESTS
from engine.wire.formats import SECTIONS, Format, compile_format
from engine.wire.framing import SPLITTERS, split_all
from engine.wire.look import Look
from engine.wire.readings import COUNT_NAMES
from engine.wire.streams import fold
from engine.wire.templates import TemplateSet
from engine.wire.trees import DIRECTIVES
from engine.wire.usage import Usage
from engine.wire.verbs import VERBS
from tests.homes import lend_parsed_files
from tests.routing.things import DOOR

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "bench/README.md"]
)
FENCE = re.compile(r"^```(\w+)?(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced example. `manner` is the word behind the language: `part` (no whole file), `refused`."""

    page: Path
    language: str
    manner: str
    text: str

    @property
    def file(self) -> str:
        """The path in the first line's comment."""
        found = re.match(r"# (\S+\.yaml)\n", self.text)
        assert found is not None, (
            f"{self.page.name}: an example begins with the name of its file\n{self.text}"
        )
        return found[1]


def read_page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def read_pages() -> str:
    """All pages: the reference of the API, of the files and of errors has more than one."""
    return "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


def list_blocks(page: Path) -> list[Block]:
    return [
        Block(page, found[1] or "", found[2] or "", found[3]) for found in FENCE.finditer(page.read_text())
    ]


def load_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


ALL_BLOCKS = [block for page in PAGES for block in list_blocks(page)]


def read_code(text: str) -> set[str]:
    """Everything between backticks, and its words."""
    whole = set(CODE.findall(FENCE.sub("", text)))
    return whole | {word for each in whole for word in re.findall(r"[$\w.-]+", each)}


def find_missing(names: Mapping[str, Any] | set[str] | frozenset[str] | list[str], text: str) -> list[str]:
    return sorted(set(names) - read_code(text))


# --- names of the code


def test_the_generated_parts_are_what_the_code_says() -> None:
    script = load_script()
    stale = [
        name
        for name in script.DOCS
        if (ROOT / name).read_text() != script.fill_parts((ROOT / name).read_text())
    ]
    assert not stale, "run scripts/write_reference.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "scripts/write_reference.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_every_key_of_the_yaml_files_is_described() -> None:
    described = {name.rpartition(".")[2] for name in CODE.findall(read_pages())}
    for file in (GatewayFile, ProviderFile, ModelsFile, NamesFile, PolicyFile, *DECLARED.values()):
        assert list_field_names(file) <= described, file.__name__


def list_field_names(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(field.alias or name)
        for inner in _find_models(field.annotation):
            if inner.__name__ != "BasicInput":  # its keys are told in the sentence of `auth.basic`
                names |= list_field_names(inner)
    return names


def test_every_failure_and_capability_has_a_name_in_the_reference() -> None:
    text = read_page("configuration.md")
    assert not find_missing(list(get_args(FailureWord)), text)
    assert all(word in text for word in CAPABILITIES)


def test_every_command_and_option_is_described() -> None:
    text = read_page("commands.md")
    for name, parser in list_commands(build_parser(), "gatewayz"):
        section = text.partition(f"### `{name}`\n")[2].partition("### ")[0]
        assert section, name
        for action in parser._actions:
            named = action.option_strings or [str(action.metavar or action.dest)]
            missing = [option for option in named if option not in read_code(section)]
            assert not missing or isinstance(action, argparse._HelpAction), (name, missing)


def list_commands(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subparsers:
        yield name, parser
    for word, child in (pair for action in subparsers for pair in action.choices.items()):
        yield from list_commands(child, f"{name} {word}")


class NoControl:
    """A worker that only shows its routes asks nobody."""

    async def reload(self) -> tuple[int, dict[str, Any]]:
        raise NotImplementedError

    async def config_state(self) -> dict[str, Any]:
        raise NotImplementedError

    async def metrics(self) -> bytes:
        raise NotImplementedError


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerApp]:
    lend_parsed_files(tmp_path)
    loader = Loader(read_settings(home=tmp_path, config=tmp_path / "gateway.yaml"), {})
    (tmp_path / "gateway.yaml").write_text("database: embedded\nredis: none\n")
    snapshot = loader.prepare(loader.read(), run_examples=False)
    app = create_worker_app(loader.settings, Runtime(snapshot), NoControl(), 0)
    yield app
    app.log.close()


def test_every_route_is_described(worker: WorkerApp) -> None:
    routes = {f"POST {path}" for path in worker.asgi.inference.list_paths()}
    routes |= {f"{method} {path}" for path, methods in worker.asgi.exact.items() for method in methods}
    routes |= {f"{route.method} {route.path}" for route in worker.asgi.declared}
    routes |= {
        f"{method} {path}{{id}}" for path, methods in worker.asgi.prefixes.items() for method in methods
    }
    text = read_pages()
    assert not routes - set(CODE.findall(text))
    assert all(f"`{path}`" in text for path in NOT_BUILT)


def test_every_header_is_described() -> None:
    said = {name.decode() for names in HEADER_NAMES.values() for name in names} | {"retry-after", "allow"}
    for folder in ("http", "serve", "policies"):
        for path in (ROOT / "engine" / folder).glob("*.py"):
            said |= set(re.findall(r'b"(x-[a-z-]+)"', path.read_text()))
    assert len(said) > 12
    assert not find_missing(said, read_pages())


def test_every_error_code_is_described_with_its_status() -> None:
    rows = [line for line in read_pages().splitlines() if re.match(r"\| \d{3} \|", line)]
    told = {(int(row[2:5]), code) for row in rows for code in CODE.findall(row.split("|")[2])}
    codes = {code for _, code in told}
    assert not set(list_codes()) - codes
    for kind in list_subclasses(GatewayError):
        assert kind.code is None or (kind.status, kind.code) in told, kind.__name__
    for refusal in (
        value for value in vars(protocol).values() if isinstance(value, tuple) and len(value) == 3
    ):
        assert refusal[:2] in told


def list_codes() -> Iterator[str]:
    """Every `code` that the gateway itself writes, wherever it is written."""
    for path in (ROOT / "engine").rglob("*.py"):
        if "simulator" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield from read_texts(keyword.value for keyword in node.keywords if keyword.arg == "code")
                if getattr(node.func, "id", "") in ("_Refusal", "RequestRefused"):
                    yield from read_texts(argument for argument in node.args[:2])


def read_texts(nodes: Iterator[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def list_subclasses(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from list_subclasses(inner)


def test_every_metric_is_described() -> None:
    assert not find_missing(FAMILIES, read_page("metrics.md"))


def test_every_environment_variable_is_described() -> None:
    names = {str(field.validation_alias) for field in Settings.model_fields.values()} | set(PROXY_VARIABLES)
    for path in (ROOT / "providers.d").rglob("*.yaml"):
        names |= set(re.findall(r"\$\{(\w+)", path.read_text()))
    assert not find_missing(names, read_page("configuration.md"))


def test_every_field_of_a_call_record_is_described() -> None:
    text = read_page("http.md")
    recorded = set(write_record(Call("", "", DOOR, 0, 0, Snapshotless()), 0))  # type: ignore[arg-type]
    assert not find_missing(recorded | {name.strip() for name in FIELDS.split(",")}, text)
    assert not find_missing(FILTERS, text)
    usage = Usage(1, 1, 1, 1, 1, 1, 1, 1)
    assert not find_missing(usage.as_record(), text)


class Snapshotless:
    version = ""


def test_every_field_of_an_attempt_is_described() -> None:
    attempt = Attempt("p", "m", "c", 0, first_token_ms=1, reason="r", usage=Usage(input=1))
    assert not find_missing(
        set(attempt.as_record()) - {"provider", "model"},
        read_page("routing.md"),
    )


# --- templates


def test_every_part_of_a_format_is_described() -> None:
    text = read_page("templates.md")
    for names in (SECTIONS, VERBS, DIRECTIVES, TESTS, _SHAPES, COUNT_NAMES):
        assert not find_missing(set(names), text)
    assert not find_missing({field.name for field in fields(Look)} - {"answer_text"}, text)
    assert all(name in text for name in SPLITTERS)


def test_the_canonical_form_is_described() -> None:
    text = read_page("templates.md").partition("## The canonical form")[2]
    assert not find_missing(get_type_hints(canonical.Chat), text)
    for kind in (
        canonical.Turn,
        canonical.Tool,
        canonical.ToolChoice,
        canonical.ResponseFormat,
        canonical.Reasoning,
    ):
        assert not set(find_missing(get_type_hints(kind), text)) - {"issuer", "native"}, kind.__name__
    assert not find_missing(get_type_hints(canonical.Part), text)
    assert not find_missing([*get_args(canonical.PartType), *get_args(canonical.Reason)], text)
    for event in get_args(canonical.Event):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{event.type}` |"))
        assert not find_missing(event.template_fields, row)
    assert not find_missing(_CONTROL | JOINED | LISTED, text)


def read_sample() -> dict[str, Any]:
    """What the examples of directives and filters work on."""
    text = next(
        block.text for block in list_blocks(ROOT / "docs/templates.md") if block.text.startswith("turns:")
    )
    sample: dict[str, Any] = load_yaml(text)
    return sample


def list_shown_results() -> list[tuple[str, Any]]:
    """(a tree or an expression as a leaf, its result) of the rows that show one."""
    shown = []
    for line in read_page("templates.md").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if (
            len(cells) == 4
            and cells[2].startswith("`")
            and (cells[3].startswith("`") or cells[3] == "nothing")
        ):
            example, result = cells[2].strip("`"), cells[3].strip("`")
            tree = load_yaml(example) if cells[0].startswith("`$") else f"{{{{ {example} }}}}"
            shown.append((tree, None if result == "nothing" else json.loads(result)))
    return shown


@pytest.mark.parametrize(("tree", "result"), list_shown_results(), ids=str)
def test_a_directive_or_filter_does_what_its_example_shows(tree: Any, result: Any) -> None:
    sample = read_sample()
    names = ("turns", "rows", "schema")
    templates = TemplateSet(sample["fragments"], sample["tables"])
    templates.add("example", tree, names, ())
    written = templates.build("example")["example"](*(sample[name] for name in names))
    assert json.loads(json.dumps(written)) == result


def test_every_directive_and_filter_has_an_example_that_is_run() -> None:
    assert len(list_shown_results()) == len(DIRECTIVES) + len(VERBS)


def test_the_small_format_reads_the_stream_that_is_shown() -> None:
    form = find_format("parrot")
    wire = next(block.text for block in list_blocks(ROOT / "docs/templates.md") if block.language == "ndjson")
    reader = form.new_stream_reader()
    frames = split_all(form.framing, [wire.encode()])
    events = [event for frame in frames if frame.data for event in reader.feed(json.loads(frame.data))]
    answer = fold(events + reader.close())
    assert (answer["id"], answer["finish"]) == ("p-1", {"reason": "stop"})
    assert answer["parts"] == [{"type": "text", "text": "hello"}]
    assert (answer["usage"]["input"], answer["usage"]["output"], reader.damaged) == (3, 1, 0)


def find_format(name: str) -> Format:
    text = next(block.text for block in ALL_BLOCKS if f"\nformat: {name}\n" in block.text)
    return compile_format(load_yaml(text))


# --- examples and links


def check_files(files: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> int:
    """The exit code of `gatewayz check` in a folder with these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("DATABASE_URL", "REDIS_URL", "GATEWAYZ_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEWAYZ_HOME", str(home))
    monkeypatch.chdir(folder)
    return main(["check"])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all checks, so that the shipped files are parsed once."""
    made = tmp_path_factory.mktemp("home")
    lend_parsed_files(made)
    return made


WITH_FILES = [page for page in PAGES if any(b.language == "yaml" and not b.manner for b in list_blocks(page))]


@pytest.mark.parametrize("page", WITH_FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_shows_pass_the_check_together(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files: dict[str, str] = {}
    for block in list_blocks(page):
        if block.language == "yaml" and not block.manner:
            assert block.file not in files
            files[block.file] = block.text
    code = check_files(files, tmp_path, monkeypatch, home)
    said = capsys.readouterr()
    assert code == 0, said.out
    assert "not in force" not in said.err


REFUSED = [
    (block, after)
    for page in PAGES
    for block, after in zip(list_blocks(page), list_blocks(page)[1:], strict=False)
    if block.manner == "refused"
]


@pytest.mark.parametrize(("block", "after"), REFUSED, ids=lambda block: block.page.name)
def test_a_file_that_is_shown_as_refused_is_refused_in_the_words_below_it(
    block: Block,
    after: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check_files({block.file: block.text}, tmp_path, monkeypatch, home) == 1
    assert capsys.readouterr().out == after.text


def test_every_other_example_is_what_it_is_said_to_be() -> None:
    for block in ALL_BLOCKS:
        if block.language == "yaml":
            assert isinstance(load_yaml(block.text) or {}, dict)
        elif block.language == "json":
            json.loads(block.text)


LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")


def test_every_link_leads_to_a_page_and_a_heading_that_are_there() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in LINK.findall(FENCE.sub("", page.read_text()))
        if not target.startswith(("http://", "https://")) and not leads_somewhere(page, target)
    ]
    assert not dead


def leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    return path.exists() and (not anchor or anchor in list_anchors(path))


def list_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_index_names_every_page() -> None:
    linked = LINK.findall(read_page("README.md"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(linked)
