"""`sextant verify`: checks every byte of signed packages."""

from __future__ import annotations

import click

from northstar.cli.common import FAILED
from northstar.model import NorthstarError, PackageError, printable


@click.command()
@click.option(
    "-k",
    "--key",
    "keys",
    required=True,
    multiple=True,
    metavar="FILE",
    help="A public key (NAME.pub) that may have signed them; several with several options.",
)
@click.argument("files", metavar="FILE..", nargs=-1, required=True)
def verify(keys: tuple[str, ...], files: tuple[str, ...]) -> int:
    """Check the signatures of packages, and every byte that they cover.

    These are the manifest, the image and its hash tree. The checksum of the archive is compared
    too. A line is printed for each FILE; the exit code is 1 if one is not as it was signed.
    """
    from northstar import npk

    public = {npk.load_public_key(key): key for key in keys}
    failed = False
    for file in files:
        try:
            with npk.open(file) as package:
                if not package.signed:
                    raise PackageError(
                        f"{file}: it is not signed", hint="sign it: sextant pack -k NAME.key"
                    )
            with npk.open(file, list(public)) as package:
                npk.verify_image(package)
                package.check_image()
                assert package.signer is not None, "opened with keys, but no signer"
                by, container = public[package.signer], package.container
            click.echo(printable(f"{file}: {container}, signed with {by}"))
        except NorthstarError as error:
            # The messages about the image name the container, the others the file.
            where = "" if error.message.startswith(file) else f"{file}: "
            click.echo(printable(f"error: {where}{error}"), err=True)
            failed = True
        except OSError as error:
            click.echo(printable(f"error: {file}: {error.strerror}"), err=True)
            failed = True
    return FAILED if failed else 0
