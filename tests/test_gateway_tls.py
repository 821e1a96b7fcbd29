"""TLS at the gateway: certificates that serve, and those that are refused before it listens."""

import ssl
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from speceyes.errors import ConfigError
from speceyes.gateway.serving import check_tls
from speceyes.gateway.settings import TlsSettings
from speceyes.gateway.settings_file import load_plan
from tests.gateway_process import serving

AUTHORITY = trustme.CA()
ISSUED = AUTHORITY.issue_cert("127.0.0.1")
OTHER = AUTHORITY.issue_cert("127.0.0.1")
SETTINGS = """
gate = "paper"

[small]
engine = "http://127.0.0.1:9/v1#small"

[large]
engine = "http://127.0.0.1:9/v1#large"

[gateway.tls]
certificate = "server.pem"
key = "server.key"
"""


def files_in(folder, *, key=None):
    certificate, its_key = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in ISSUED.cert_chain_pems))
    its_key.write_bytes(ISSUED.private_key_pem.bytes() if key is None else key)
    return TlsSettings(certificate=str(certificate), key=str(its_key))


def with_password():
    key = serialization.load_pem_private_key(ISSUED.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.fixture
def settings_file(tmp_path):
    files_in(tmp_path)
    path = tmp_path / "speceyes.toml"
    path.write_text(SETTINGS)
    return path


def test_without_a_certificate_nothing_is_checked():
    check_tls(TlsSettings())


def test_files_lie_beside_the_settings_file(settings_file):
    tls = load_plan(settings_file, flags={}).settings.tls
    assert Path(tls.certificate) == settings_file.parent / "server.pem"
    assert Path(tls.key) == settings_file.parent / "server.key"
    check_tls(tls)


@pytest.mark.parametrize(("given", "missing"), [("certificate", "key"), ("key", "certificate")])
def test_one_without_the_other_is_refused(tmp_path, given, missing):
    path = tmp_path / "speceyes.toml"
    path.write_text(f'[gateway.tls]\n{given} = "x.pem"\n')
    with pytest.raises(ConfigError, match=rf"^gateway\.tls\.{missing}: is missing"):
        load_plan(path, flags={})


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    tls = files_in(tmp_path)
    Path(getattr(tls, name)).unlink()
    with pytest.raises(ConfigError, match=rf"^gateway\.tls\.{name}: .* cannot be read: No such"):
        check_tls(tls)


@pytest.mark.parametrize(
    "key",
    [OTHER.private_key_pem.bytes(), b"no key", with_password()],
    ids=["of another", "no PEM", "with a password"],
)
def test_a_key_that_cannot_be_served_with_is_refused(tmp_path, key):
    with pytest.raises(ConfigError, match=r"^gateway\.tls\.key: .* is not the key of .*server.pem"):
        check_tls(files_in(tmp_path, key=key))


@pytest.mark.parametrize("workers", [1, 2])
def test_who_trusts_the_authority_is_served(settings_file, workers):
    trusted = ssl.create_default_context()
    AUTHORITY.configure_trust(trusted)
    flags = ("--config", str(settings_file), "--workers", str(workers))
    with serving(settings_file.parent, *flags, trusted=trusted) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        assert gateway.ask("/healthz")[0] == 200
        gateway.trusted = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            gateway.ask("/healthz")
        port = urlsplit(gateway.url).port
        plain = HTTPConnection("127.0.0.1", port, timeout=10)
        plain.request("GET", "/healthz")
        with pytest.raises(ConnectionError):
            plain.getresponse()
        assert gateway.process.poll() is None
