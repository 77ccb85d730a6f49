"""No password of an address is shown or stored: any password, in any form of address. By hypothesis."""

from __future__ import annotations

import shlex
import sqlite3
import tempfile
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secateur.core.addresses import argument_without_secrets, hidden_secrets, settings_without_secrets, without_secrets
from secateur.core.errors import SecateurError
from secateur.experiments import Cell, Store
from secateur.experiments.artefacts import Address
from secateur.experiments.database import shown, store_url
from tiny_study import TinyStudy

MARK = "Zq7"
"""In every password; its signs are never encoded, and nowhere else."""

ANY = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
SIGNS = [*":@/?#&=%+;,!'\"\\ []{}", "::", "://", "@h", "%40", ""]
PARTS = st.one_of(st.sampled_from(SIGNS), st.text(ANY, max_size=4))
PASSWORDS = (
    st.lists(PARTS, max_size=4)
    .map("".join)
    .flatmap(lambda before: st.lists(PARTS, max_size=4).map("".join).map(lambda after: f"{before}{MARK}{after}"))
)
USERS = st.sampled_from(["me", "", "me@corp", "AKIA1234", "a.b-c_d", "m%40e"])

AS_IT_IS = [  # where the password may be written without encoding, whatever is in it
    "{kind}://{user}:{secret}@host/name",
    "{kind}://{user}:{secret}@h1:5432,h2:5432/name?port=1",
    "simplecache::{kind}://{user}:{secret}@bucket/folder",
    "filecache::zip://a.zip::{kind}://{user}:{secret}@bucket",
]
ENCODED = [
    *AS_IT_IS,
    "{kind}://host/name?password={secret}",
    "{kind}://host/name?user={user}&password={secret}&port=1",
    "{kind}://host/name?sslpassword={secret};x=1",
    "{kind}://host:1,host:2/name?a=b&PGPASSWORD={secret}",
    "https://host/file?X-Amz-Signature={secret}&X-Amz-Date=1",
    "abfs://c@account.dfs/x?sv=1&sig={secret}",
    "https://host/x#access_token={secret}",
    "https://host/x?p%61ss%77ord={secret}",
    "az://c?connection_string=AccountName=a;AccountKey={secret}",
    "simplecache::s3://{user}:{secret}@bucket::ftp://you:{secret}@other",
    "//{user}:{secret}@host/share",
]
KINDS = st.sampled_from(["postgresql", "postgresql+psycopg", "s3", "sftp", "https", "ftp"])


def encoded(secret):
    return st.sampled_from([quote(secret), quote(secret, safe=""), quote_plus(secret)])


@st.composite
def addresses(draw):
    """An address and the password in it, as it is written there."""
    secret = draw(PASSWORDS)
    raw = draw(st.booleans())
    written = secret if raw else draw(encoded(secret))
    form = draw(st.sampled_from(AS_IT_IS if raw else ENCODED))
    return form.format(kind=draw(KINDS), user=draw(USERS), secret=written), written


@given(addresses(), st.sampled_from(["{}", "--store={}", "data.source={}", "--set=data.source={}"]))
@settings(max_examples=500, deadline=None)
@example(("postgresql://me@corp:Zq7@host/name", "Zq7"), "{}")
def test_arguments_and_settings_have_no_password(address, option):
    text, _ = address
    found = argument_without_secrets(option.format(text))
    assert MARK not in found
    assert "***" in found
    assert argument_without_secrets(found) == found
    assert MARK not in str(settings_without_secrets({"a": [text, {"b": (text,)}], "c": 1}))


@given(addresses(), st.sampled_from(["{}", "cannot open '{}' (no route)", 'see "{}", {}', "{} and {}", "a\n{}\tb"]))
@settings(max_examples=500, deadline=None)
def test_texts_have_no_password_without_blanks(address, sentence):
    text, written = address
    if any(sign.isspace() or sign in "'\"" for sign in written):  # nothing says where it ends
        return
    assert MARK not in without_secrets(sentence.format(text, text))


@given(addresses(), st.sampled_from([lambda s: s, quote, quote_plus, lambda s: quote(s, safe=""), repr]))
@settings(max_examples=300, deadline=None)
def test_errors_that_say_the_password_in_any_writing_do_not_show_it(address, writing):
    text, written = address
    for said in {written, unquote(written)}:
        assert MARK not in hidden_secrets(f"530 login of me with {writing(said)} failed at {text}", text)
    place = Address(text)
    assert MARK not in f"{place} {place!r} {place.stored('ab/abc/x')} {place.stored('')}"


@given(PASSWORDS, st.sampled_from(["me", "me@corp", "ü"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_stores_show_no_password(secret, user, in_query):
    pytest.importorskip("psycopg")
    query = {"password": secret, "user": user} if in_query else {}
    url = sa.URL.create(
        "postgresql", None if in_query else user, None if in_query else secret, "host", 1, "name", query
    )
    text = url.render_as_string(hide_password=False)
    assert store_url(text).password == url.password
    assert MARK not in shown(store_url(text))
    assert MARK not in argument_without_secrets(text)


class Opened(Cell):
    source: str
    more: tuple[str, ...] = ()


@given(addresses())
@settings(max_examples=40, deadline=None)
def test_no_byte_of_a_store_has_the_password(address):
    text, written = address
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cells.sqlite"
        with Store(path, "tiny", 1, TinyStudy.tables) as store:
            cell = Opened(source=text)
            store.start(
                [("abc", cell)],
                {"data": {"source": text}},
                shlex.join(["secateur", argument_without_secrets(f"--store={text}")]),
            )
            if not any(sign.isspace() or sign in "'\"" for sign in written):
                store.fail("abc", f"cannot open '{text}'", 0.0, 1.0)
        sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
        held = b"".join(each.read_bytes() for each in Path(name).rglob("*") if each.is_file())
        assert MARK.encode() not in held


def test_an_address_that_fails_says_no_password_in_any_traceback():
    place = Address(f"nokind://me:{MARK}@bucket")
    for work in (lambda: place.write("x", b""), place.check):
        with pytest.raises(SecateurError) as raised:
            work()
        assert MARK not in "".join(traceback.format_exception(raised.value))
