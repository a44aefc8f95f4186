"""The caches of compiled kernels and convolution plans: a machine's additions to the packed ones, as one file."""
import pathlib
import tarfile

# File in the folder of the results, and the folders of the cache that it has.
NAME = "caches.tar.xz"
FOLDERS = ["kernels", "convolutions"]
# Names of the packed entries, which the file omits.
PACKED = "packed.txt"


def restore(out, cache):
    """Unpacks the file of earlier stages, if there is one."""
    path = pathlib.Path(out) / NAME
    if path.exists():
        with tarfile.open(path) as archive:
            archive.extractall(cache, filter="data")


def store(out, cache):
    """Packs the entries that the archive of the suite did not have; the size of the file in bytes."""
    path, cache = pathlib.Path(out) / NAME, pathlib.Path(cache)
    packed = set((cache / PACKED).read_text().splitlines()) if (cache / PACKED).exists() else set()
    with tarfile.open(path, "w:xz") as archive:
        for name in entries(cache):
            if name not in packed:
                archive.add(cache / name, arcname=name)
    return path.stat().st_size


def list_packed(cache):
    """Writes the names of the entries that the archive of the suite has."""
    (pathlib.Path(cache) / PACKED).write_text("\n".join(entries(cache)))


def entries(cache):
    """Paths of the entries in the cache folder. Names of unfinished entries begin with a dot."""
    cache = pathlib.Path(cache)
    found = [path for folder in FOLDERS for path in (cache / "fornax" / folder).glob("[!.]*")]
    return sorted(str(path.relative_to(cache)) for path in found)
