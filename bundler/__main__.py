"""Starts the program: as ``python -m bundler``, and inside ``bundle.pyz``.

Written for any Python 3, so that an old one can say what to do instead of a syntax error.
"""

import os
import subprocess
import sys

OLDEST = (3, 10)
NEWEST = 20
ASK = "import sys; sys.exit(0 if sys.version_info >= (3, 10) else 1)"


def newer_python():
    """The newest interpreter on PATH that is new enough, or an empty string."""
    for minor in range(NEWEST, OLDEST[1] - 1, -1):
        name = "python3." + str(minor)
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            path = os.path.join(folder, name)
            # A version manager's shim may stand there without such a Python behind it: ask it.
            if os.access(path, os.X_OK):
                with open(os.devnull, "w") as nowhere:
                    if subprocess.call([path, "-I", "-c", ASK], stdout=nowhere, stderr=nowhere) == 0:
                        return path
    return ""


def compile_once():
    """Let imports out of bundle.pyz take half the time: zipimport compiles a module to learn the name of its file."""
    import zipimport

    class Importer(zipimport.zipimporter):
        def get_filename(self, fullname):
            path = os.path.join(self.archive, self.prefix + fullname.rpartition(".")[2])
            return os.path.join(path, "__init__.py") if self.is_package(fullname) else path + ".py"

    if isinstance(globals()["__loader__"], zipimport.zipimporter):
        sys.path_hooks.insert(0, Importer)
        sys.path_importer_cache.clear()


def main():
    """Run the command line, under another Python where this one is too old."""
    if sys.version_info >= OLDEST:
        compile_once()
        from bundler.cli import main as run

        return run()
    found = newer_python()
    if found:
        os.execv(found, [found, os.path.abspath(sys.argv[0])] + sys.argv[1:])
    sys.stderr.write(
        "bundle: this is Python %d.%d, and Python 3.10 or newer is needed.\n" % sys.version_info[:2]
        + "No newer one is on PATH. Install one from the host's own packages (such as python3.11; pip and venv\n"
        + "are not needed), then run: python3.11 %s ...\n" % sys.argv[0]
    )
    return 9


if __name__ == "__main__":
    sys.exit(main())
