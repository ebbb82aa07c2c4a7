"""Entry point of ``python -m bundler`` and of ``bundle.pyz``.

It is written for any Python 3, so that an old one can say what to do instead of showing a syntax error.
"""

import os
import subprocess
import sys

OLDEST = (3, 10)
NEWEST = 20
VERSION_CHECK = "import sys; sys.exit(0 if sys.version_info >= (3, 10) else 1)"


def find_newer_python():
    """Find the newest interpreter on PATH that is new enough; return an empty string if there is none."""
    for minor in range(NEWEST, OLDEST[1] - 1, -1):
        name = "python3." + str(minor)
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            path = os.path.join(folder, name)
            # It may be a version manager's shim without such a Python: run it to find out.
            if os.access(path, os.X_OK):
                with open(os.devnull, "w") as null:
                    if subprocess.call([path, "-I", "-c", VERSION_CHECK], stdout=null, stderr=null) == 0:
                        return path
    return ""


def speed_up_zipimport():
    """Halve the time of imports from bundle.pyz: zipimport compiles a module only to get its file's name."""
    import zipimport

    class Importer(zipimport.zipimporter):
        def get_filename(self, fullname):
            path = os.path.join(self.archive, self.prefix + fullname.rpartition(".")[2])
            return os.path.join(path, "__init__.py") if self.is_package(fullname) else path + ".py"

    if isinstance(globals()["__loader__"], zipimport.zipimporter):
        sys.path_hooks.insert(0, Importer)
        sys.path_importer_cache.clear()


def main():
    """Run the command line, with a newer Python if this one is too old."""
    if sys.version_info >= OLDEST:
        speed_up_zipimport()
        from bundler.cli import main as run

        return run()
    python = find_newer_python()
    if python:
        os.execv(python, [python, os.path.abspath(sys.argv[0])] + sys.argv[1:])
    sys.stderr.write(
        "bundle: this is Python %d.%d, but Python 3.10 or newer is needed.\n" % sys.version_info[:2]
        + "PATH has no newer one. Install one from the host's own packages (such as python3.11; pip and venv are\n"
        + "not needed), then run: python3.11 %s ...\n" % sys.argv[0]
    )
    return 9


if __name__ == "__main__":
    sys.exit(main())
