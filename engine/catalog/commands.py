"""`gatewayz models import`: writes models.d from the selection and a price list."""

import argparse
import sys
from pathlib import Path

from engine.catalog.price_list import read_price_list
from engine.catalog.selection import read_known_providers, read_selection
from engine.catalog.write_models import ModelWriter
from engine.config.files import find_library


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    models = subparsers.add_parser("models", help="the shipped models").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    parser = models.add_parser("import", help="write models.d from the selection and a price list")
    parser.add_argument("--prices", type=Path, required=True, metavar="FILE", help="the price list (JSON)")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write; default: the shipped models.d"
    )
    parser.add_argument("--selection", type=Path, metavar="FOLDER", help="default: catalog/ of the clone")
    parser.set_defaults(run=import_models)


def import_models(args: argparse.Namespace) -> int:
    """Writes all files, or none and says why."""
    library = find_library()
    folder = args.selection or library / "catalog"
    if not folder.is_dir():
        print(f"no folder {folder}: the selection is in a clone; name it with --selection", file=sys.stderr)
        return 1
    providers, chosen = read_selection(folder)
    known = read_known_providers(library / "providers.d")
    writer = ModelWriter(read_price_list(args.prices.read_bytes()), providers, known)
    texts = {name: writer.write_file(name, spec) for name, spec in chosen.items()}
    for line in writer.problems:
        print(line, file=sys.stderr)
    if writer.problems:
        return 1
    out = args.out or library / "models.d"
    for name, text in texts.items():
        _write_or_remove(out / f"{name}.yaml", text)
    print(f"{writer.written} models; {len(writer.left_out)} targets left out, their providers have no file")
    return 0


def _write_or_remove(path: Path, text: str) -> None:
    if text:
        path.write_text(text)
    else:
        path.unlink(missing_ok=True)
