#!/usr/bin/env python3
"""Builds the Debian package from `[package.metadata.deb]` in Cargo.toml and programs that are built: `build-deb.py BIN_DIR OUT_DIR`.

The table has cargo-deb's form. This script needs nothing but Python and dpkg-deb, so that who tests the package does not build a
builder first. It prints the path of the package.
"""

import argparse
import email.utils
import gzip
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of the assets' sources, what cargo-deb replaces by the folder of the build, and what in there the program has still to write.
BUILT = "target/release/"
WRITTEN = f"{BUILT}share/"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bin_dir", type=pathlib.Path, help="where the two programs are")
    parser.add_argument("out_dir", type=pathlib.Path, help="where the package goes")
    parser.add_argument("--version", help="instead of Cargo.toml's")
    return parser.parse_args()


def matching(bin_dir, share, source):
    """The files that an asset's source means, each with where it goes below a target that is a folder; raises where there is none."""
    folders = {WRITTEN: share, BUILT: bin_dir, "": ROOT}
    prefix = next(prefix for prefix in folders if source.startswith(prefix))
    folder, source = folders[prefix], source.removeprefix(prefix)
    parts = pathlib.PurePath(source).parts
    # Like cargo-deb: what is below the first part with a wildcard stays below the target.
    fixed = next((count for count, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
    base = folder.joinpath(*parts[:fixed])
    found = sorted(path for path in base.glob(str(pathlib.PurePath(*parts[fixed:]))) if path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder / source}: nothing to put into the package")
    return [(path, path.relative_to(base)) for path in found]


def place(tree, origin, below, target, mode):
    """Copies one file into the tree; returns its path there."""
    path = tree / target
    if target.endswith("/"):
        path = path / below
    path.parent.mkdir(parents=True, exist_ok=True)
    # As Debian's policy wants it (12.1, 12.7) and cargo-deb does.
    if target.startswith("usr/share/man/") or path.name in ("changelog", "changelog.Debian"):
        path = path.with_name(f"{path.name}.gz")
        path.write_bytes(gzip.compress(origin.read_bytes(), mtime=0))
    else:
        shutil.copyfile(origin, path)
    path.chmod(int(mode, 8))
    return path


def needed_libraries(program):
    """The packages of the libraries that a program is linked with, the C library in the version that its symbols ask for."""
    content = program.read_bytes()
    versions = [tuple(map(int, found.split(b"."))) for found in set(re.findall(rb"GLIBC_(\d+(?:\.\d+)+)\0", content))]
    if not versions:
        # Linked statically.
        return []
    newest = ".".join(map(str, max(versions)))
    more = ["libgcc-s1"] if b"libgcc_s.so.1" in content else []
    return [f"libc6 (>= {newest})", *more]


def maintainer(deb):
    """Who builds packages for others says so in Debian's usual way."""
    name, address = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return f"{name} <{address}>" if name and address else deb["maintainer"]


def built_at(changelog):
    """The time of the last entry, in seconds: what is built of the same source is the same."""
    dates = re.findall(r"^ -- .*>  (.*)$", changelog.read_text(), re.MULTILINE)
    return str(int(email.utils.parsedate_to_datetime(dates[0]).timestamp()))


def control(package, deb, version, depends, size):
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    description = "\n ".join(line or "." for line in deb["extended-description"].strip().splitlines())
    fields = {
        "Package": package["name"],
        "Version": version,
        "Architecture": architecture,
        "Maintainer": maintainer(deb),
        "Installed-Size": str(size),
        "Depends": ", ".join(depends),
        "Recommends": deb["recommends"],
        "Section": deb["section"],
        "Priority": deb["priority"],
        "Description": f"{package['description']}\n {description}",
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def main():
    options = arguments()
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    deb = package["metadata"]["deb"]
    version = options.version or f"{package['version']}-{deb['revision']}"
    # Whatever the caller's umask is.
    os.umask(0o022)
    changelog = ROOT / deb["changelog"]
    os.environ.setdefault("SOURCE_DATE_EPOCH", built_at(changelog))
    with tempfile.TemporaryDirectory() as scratch:
        share = pathlib.Path(scratch) / "share"
        subprocess.run([ROOT / "packaging" / "share.sh", options.bin_dir, share], check=True)
        tree = pathlib.Path(scratch) / "tree"
        tree.mkdir(mode=0o755)
        files = [place(tree, *found, target, mode) for source, target, mode in deb["assets"] for found in matching(options.bin_dir, share, source)]
        files.append(place(tree, changelog, changelog.name, f"usr/share/doc/{package['name']}/changelog.Debian", "644"))
        libraries = {library for path in files if path.parent.name == "bin" for library in needed_libraries(path)}
        depends = sorted(libraries) + [one.strip() for one in deb["depends"].split(",") if one.strip() != "$auto"]
        size = sum(path.stat().st_size for path in files) // 1024 + 1
        folder = tree / "DEBIAN"
        folder.mkdir(mode=0o755)
        (folder / "control").write_text(control(package, deb, version, depends, size))
        # For `dpkg --verify`.
        sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in sorted(files))
        (folder / "md5sums").write_text("".join(sums))
        (folder / "conffiles").write_text("".join(f"{path}\n" for path in deb["conf-files"]))
        for name in SCRIPTS:
            script = ROOT / deb["maintainer-scripts"] / name
            if script.exists():
                shutil.copyfile(script, folder / name)
                (folder / name).chmod(0o755)
        options.out_dir.mkdir(parents=True, exist_ok=True)
        made = options.out_dir / f"{package['name']}_{version}.deb"
        # Unpacked faster than the smallest one is, and by every dpkg.
        argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z6", "--build", tree, made]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
