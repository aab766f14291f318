"""Copies the Python that runs this, and the libraries that it needs, to root/usr.

The app mounts it as /usr. Its links lib and lib64 lead there too, as on a merged /usr: the
interpreter of the ELF programs is in one of them.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
USR = HERE / "root/usr"

# Not needed on a device: tests, tools, examples, and packages that were added to this machine.
LEFT_OUT = (
    "__pycache__", "_tkinter*", "config-*", "dist-packages", "ensurepip", "idlelib", "lib2to3",
    "pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo",
)  # fmt: skip


def libraries(program: str) -> set[str]:
    """Return the shared libraries of a program, and the loader that is its interpreter."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return set(re.findall(r"(/\S+) \(0x", done.stdout))


def main() -> None:
    """Replace root/ and manifest.yaml."""
    shutil.rmtree(HERE / "root", ignore_errors=True)
    (USR / "bin").mkdir(parents=True)
    # In a virtual environment this is the Python that it was made with.
    program = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    shutil.copy2(program, USR / "bin/python3")
    standard = sysconfig.get_path("stdlib")
    target = USR / "lib" / os.path.basename(standard)
    shutil.copytree(standard, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    # The image is read only: Python could not store what it compiles, at each start.
    compiling = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([sys.executable, *compiling, str(target)], check=True)
    found = libraries(program)
    for module in target.glob("lib-dynload/*.so"):
        found |= libraries(str(module))
    for library in sorted(found):
        # /lib/x86_64-linux-gnu/libc.so.6 and /usr/lib/x86_64-linux-gnu/libc.so.6 are one file.
        # A library from elsewhere (libpython of /usr/local) goes where the loader looks.
        place = library.removeprefix("/usr").lstrip("/")
        if not re.match(r"lib(32|64)?/", place):
            place = f"lib/{os.path.basename(library)}"
        (USR / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, USR / place)
    version = ".".join(map(str, sys.version_info[:3]))
    text = f"name: python\nversion: {version}\nuid: 1000\ngid: 1000\n"
    (HERE / "manifest.yaml").write_text(text)


if __name__ == "__main__":
    main()
