"""The commands of `nstar` for tokens. They are loaded on first use."""

from __future__ import annotations

import base64
import binascii
import os
import sys

import click

from northstar.api.response import TokenResult
from northstar.cli.common import FAILED
from northstar.cli.nstar_session import Session
from northstar.cli.parameters import NameType
from northstar.model import Name


@click.command()
@click.argument("target", type=NameType(), metavar="TARGET")
@click.argument("shared", metavar="SHARED")
@click.pass_obj
def token(session: Session, target: Name, shared: str) -> None:
    """Create a token for TARGET, bound to the text SHARED.

    In a pipe or a file it is the only output, so that `$(nstar token ..)` is the token.
    """
    with session.connect() as client:
        made = base64.b64encode(client.token_create(target, os.fsencode(shared))).decode()
        session.show(f"created token {made}" if sys.stdout.isatty() else made)


@click.command("verify-token")
@click.argument("token", metavar="TOKEN")
@click.argument("user", type=NameType(), metavar="USER")
@click.argument("shared", metavar="SHARED")
@click.pass_obj
def verify_token(session: Session, token: str, user: Name, shared: str) -> int:
    """Check a token, print the result, and exit with 0 only if it is Ok.

    Ok: USER made it for this client, with this SHARED. Otherwise Invalid, Expired or Future, and
    the exit code is 1.
    """
    try:
        data = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise click.BadParameter(f"{token!r} is not base64", param_hint="TOKEN") from None
    if len(data) != 40:
        raise click.BadParameter(f"a token has 40 bytes, not {len(data)}", param_hint="TOKEN")
    with session.connect() as client:
        result = client.token_verify(data, user, os.fsencode(shared))
    session.show(result.value)
    return 0 if result is TokenResult.OK else FAILED
