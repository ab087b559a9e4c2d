"""Who may connect to the OPC UA server, and how what they say is protected."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgead import ConfigError, PublisherContext

if TYPE_CHECKING:
    from plugins.publishers.opcua.publisher import OpcUaOptions


async def secure(server: Any, options: OpcUaOptions, context: PublisherContext) -> None:
    """Set a server's name, certificate, policies and users; raises ``ConfigError`` for certificates it cannot use."""
    uri = f"urn:edgead:{context.station}"
    server.set_server_name("edgead")
    server.set_endpoint(f"opc.tcp://{options.host}:{options.port}/edgead")
    await server.set_application_uri(uri)
    server.iserver.max_session_timeout_ms = options.session_s * 1000
    policies = [
        ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
        ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
    ]
    if options.security == "none":
        policies.append(ua.SecurityPolicyType.NoSecurity)
    server.set_security_policy(policies)
    tokens: list[Any] = [ua.UserNameIdentityToken] if options.users else []
    server.set_identity_tokens([*tokens, *([ua.AnonymousIdentityToken] if options.anonymous else [])])
    certificate, key = context.folder / "certificate.der", context.folder / "key.pem"
    if options.certificate is not None and options.key is not None:
        certificate, key = context.base / options.certificate, context.base / options.key
    else:
        await setup_self_signed_certificate(
            key, certificate, uri, options.host, [ExtendedKeyUsageOID.SERVER_AUTH], {"commonName": "edgead"}
        )
        key.chmod(0o600)
    try:
        await server.load_certificate(str(certificate))
        await server.load_private_key(str(key))
    except (OSError, ValueError) as error:
        raise ConfigError(f"expected a certificate and its key, {certificate} and {key}: {error}") from error
    if options.trusted is not None:
        store = TrustStore([context.base / options.trusted], [])
        await store.load()
        rules = CertificateValidatorOptions.TIME_RANGE | CertificateValidatorOptions.TRUSTED
        server.set_certificate_validator(
            CertificateValidator(rules | CertificateValidatorOptions.PEER_CLIENT, store).validate
        )


class Users:
    """Who may connect. asyncua asks with the name and password of a session."""

    def __init__(self, options: OpcUaOptions, base: Path) -> None:
        """Read the passwords; ``base``: folder of the station file."""
        self._passwords = {name: secret.read(base) for name, secret in options.users.items()}
        self._anonymous = options.anonymous

    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        """Return the user, or None to refuse; nobody may change the address space."""
        del iserver, certificate
        if username is None:
            return User(role=UserRole.User) if self._anonymous else None
        known = self._passwords.get(username)
        given = (password if isinstance(password, str) else "").encode()
        if known is not None and hmac.compare_digest(known.encode(), given):
            return User(role=UserRole.User, name=username)
        return None
