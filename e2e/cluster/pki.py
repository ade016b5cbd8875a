"""Certificates, tokens and kubeconfigs of a throw-away control plane."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING

from e2e.cluster.progress import run

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pki:
    """A certificate authority and the identities it vouches for, as files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.ca = directory / "ca.crt"
        self.tokens = directory / "tokens.csv"
        directory.mkdir(parents=True, exist_ok=True)
        ca = ("-subj", "/CN=test-ca", "-keyout", directory / "ca.key", "-out", self.ca)
        run(["openssl", "req", "-x509", *_KEY, "-days", "365", *ca])
        # Signs service account tokens. In the older of openssl's two formats for
        # such keys: the API server does not read the other one.
        key = ("-name", "prime256v1", "-genkey", "-noout", "-out", directory / "service-accounts.key")
        run(["openssl", "ecparam", *key])

    def cert(self, name: str, subject: str, alt_names: str = "") -> None:
        """Write NAME.key and NAME.crt, signed by the authority."""
        request, extensions = self.dir / f"{name}.csr", self.dir / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alt_names}\n" if alt_names else "")
        key = self.dir / f"{name}.key"
        run(["openssl", "req", *_KEY, "-subj", subject, "-keyout", key, "-out", request])
        authority = ("-CA", self.ca, "-CAkey", self.dir / "ca.key", "-CAcreateserial")
        out = ("-days", "365", "-extfile", extensions, "-out", self.dir / f"{name}.crt")
        run(["openssl", "x509", "-req", "-in", request, *authority, *out])

    def user(self, name: str, *groups: str) -> str:
        """Add a user with a static token, which is returned."""
        token = secrets.token_hex(16)
        with self.tokens.open("a") as file:
            file.write(f'{token},{name},{name},"{",".join(groups)}"\n')
        return token

    def kubeconfig(self, path: Path, server: str, token: str) -> Path:
        """Write a kubeconfig (JSON, which is YAML) that trusts this authority."""
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "e2e", "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        }
        # whoever waits for the file must not see half of it
        temporary = path.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(config, indent=1))
        return temporary.rename(path)
