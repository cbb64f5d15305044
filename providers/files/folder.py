"""The catalog of a folder: the file of each symbol and timeframe, and the reason why a file cannot be served."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from candlegraph.errors import InvalidCandles
from candlegraph.timeframe import Timeframe
from providers.tables.names import SUFFIXES, name_of

# Other formats that may have candles: the user gets a message about them; all other files are ignored silently.
_UNREAD = (".gz", ".xz", ".bz2", ".zst", ".7z", ".rar", ".xls", ".xlsx", ".h5", ".hdf5", ".orc", ".avro")
_KINDS = "only CSV and other delimited text, JSON, Parquet, Feather and Arrow files are read, also packed (.csv.gz, .zip ...)"

Version = tuple[int, int, int, int]  # size, mtime, ctime (ns) and inode: if the content changes, one of them does


@dataclass(frozen=True, slots=True)
class Catalog:
    """Each symbol's file of each timeframe, and by file name the reason why a file cannot be served."""

    files: Mapping[str, Mapping[Timeframe, Path]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    suspended: Mapping[str, str] = field(default_factory=dict)  # by symbol: why it lacks an existing file
    unreadable: Mapping[str, str] = field(
        default_factory=dict
    )  # by subfolder such as `binance/`: why it cannot be read
    symbols: tuple[str, ...] = ()  # all that have a file, even if it cannot be served
    timeframes: tuple[Timeframe, ...] = ()

    def why_suspended(self, symbol: str) -> str | None:
        """The reason why a symbol may lack an existing file."""
        folders = (reason for folder, reason in self.unreadable.items() if symbol.startswith(folder))
        return self.suspended.get(symbol) or next(folders, None)


def version_of(path: Path) -> Version:
    """The version of a file. OSError."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def catalog(root: Path, held: Callable[[Path, Timeframe | None], Timeframe], known: Sequence[str] = ()) -> Catalog:
    """Scan a folder. ``held`` returns the timeframe of a file, given the one in its name.

    OSError if the folder cannot be read. An unreadable subfolder must not look like an empty one: the symbols ``known`` from
    earlier scans stay and are suspended, like those whose only file cannot be read now.
    """
    found: dict[tuple[str, Timeframe], list[Path]] = {}
    problems: dict[str, str] = {}
    suspended: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for path, name in _tables_under(root, unreadable):
        if problem := _unserved(root, path, name):
            problems[name.encode(errors="backslashreplace").decode()] = problem
            continue
        found_name = name_of(name)
        symbol, named = found_name.symbol, found_name.timeframe
        try:
            found.setdefault((symbol, held(path, named)), []).append(path)
        except (InvalidCandles, OSError) as error:
            reason = error.message if isinstance(error, InvalidCandles) else f"{path.name}: {error.strerror}"
            problems[name] = reason
            if named:  # a query for the symbol then gets the reason
                found.setdefault((symbol, named), []).append(path)
            else:
                suspended[symbol] = reason
    files: dict[str, dict[Timeframe, Path]] = {}
    for (symbol, timeframe), paths in found.items():
        if len(paths) == 1:
            files.setdefault(symbol, {})[timeframe] = paths[0]
        else:
            # Serve none of them: a guess may be wrong.
            names = " and ".join(path.name for path in paths)
            problem = f"{names} hold {timeframe} candles of {symbol!r} both: keep one of them, or join them by `candlegraph import`."
            problems.update({path.relative_to(root).as_posix(): problem for path in paths})
            suspended[symbol] = problem
    timeframes = sorted({timeframe for _, timeframe in found}, key=lambda timeframe: timeframe.nominal_ms)
    hidden = {symbol for symbol in known if symbol in suspended or symbol.startswith(tuple(unreadable))}
    symbols = sorted({symbol for symbol, _ in found} | hidden)
    return Catalog(files, problems | unreadable, suspended, unreadable, tuple(symbols), tuple(timeframes))


def _tables_under(root: Path, unreadable: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield every table in a folder and its subfolders, with its name; ``unreadable`` gets the reasons for failed subfolders."""

    def note(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        if name == ".":
            raise error
        unreadable[f"{name}/"] = f"{name}/: the folder cannot be read: {error.strerror}"

    for folder, subfolders, names in os.walk(root, onerror=note):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "lost+found")
        for plain in sorted(names):
            path = Path(folder, plain)
            if not plain.startswith(".") and plain.lower().endswith((*SUFFIXES, *_UNREAD)):
                yield path, path.relative_to(root).as_posix()


def _unserved(root: Path, path: Path, name: str) -> str | None:
    """Why a file is not opened; None if it is. Links are followed only to files inside ``root``."""
    if not name.isprintable():
        return f"{path.name!a}: its name cannot be printed"
    if not path.name.lower().endswith(SUFFIXES):
        return f"{path.name}: {_KINDS}"
    try:
        path.stat()
    except FileNotFoundError:
        return f"{path.name}: it is a link to no file"
    except OSError:
        return None  # its symbol is suspended when it is opened
    if not path.resolve().is_relative_to(root):
        return f"{path.name}: it leads out of FILES_DIR"
    return None if path.is_file() else f"{path.name}: it is no regular file"
