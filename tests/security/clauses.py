"""What is asked of a provisioning server by the field's standards: clause by clause, where we do it, what proves it.

`python -m tests.security.document` writes docs/security.md from it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Clause:
    """modules: below provserver/. tests: files below tests/, or single tests in them as `file::test`."""

    source: str
    clause: str
    asked: str
    done: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]


ETSI, NIST, IEC, ISVS, CRA = "ETSI EN 303 645", "NIST IR 8259A", "IEC 62443-4-2", "OWASP ISVS", "CRA, EN 18031, PSTI"
ATTACK = "Attacks"

_A = "security/test_attacks.py"
_P = "security/test_planted_secrets.py"

CLAUSES = (
    Clause(
        ETSI,
        "5.1-1, 5.1-2",
        "no universal passwords; what is generated cannot be guessed",
        "tokens of 190 random bits, each device's own; no default password: the first start leaves a link",
        ("core/ids.py", "core/decision.py", "admin/set_up.py"),
        (
            f"{_A}::test_etsi_5_1_1_no_two_devices_have_one_credential",
            f"{_A}::test_etsi_5_1_2_what_others_may_know_of_a_device_opens_nothing",
        ),
    ),
    Clause(
        ETSI,
        "5.1-5",
        "guessing over the network is impracticable",
        "guesses are counted by address; past the limit they are not evaluated, and nobody else pays for it",
        ("core/limits.py", "services/limits.py"),
        (f"{_A}::test_etsi_5_1_5_guesses_are_evaluated_up_to_a_limit_only", "services/test_limits.py"),
    ),
    Clause(
        ETSI,
        "5.4-1 … 5.4-4",
        "sensitive parameters are stored securely, and are unique to the device",
        "keyed digests to look up by, AES-256-GCM for what is shown again, keys outside the database",
        ("core/secrets.py", "store/keyfile.py"),
        ("core/test_secrets.py", "store/test_keyfile.py", f"{_P}::test_no_secret_is_anywhere_it_does_not_belong"),
    ),
    Clause(
        ETSI,
        "5.5",
        "communicate securely",
        "TLS 1.2 and 1.3, DTLS 1.2, OSCORE; sealed requests where the channel is plain",
        ("transports/tls.py", "transports/dtls.py", "transports/oscore.py", "core/sealed.py"),
        ("transports/test_tls.py", "transports/test_dtls.py", "transports/test_oscore.py", "core/test_sealed.py"),
    ),
    Clause(
        ETSI,
        "5.8, 5.11",
        "personal data are protected, and deleted on request",
        "the next owner of a device sees nothing of the one before; what is deleted is gone",
        ("services/handover.py",),
        ("services/test_handover.py", "services/test_ownership_machine.py"),
    ),
    Clause(
        ETSI,
        "5.13",
        "input is validated",
        "every parser has bounds and is fuzzed; what is not understood is answered, not met with a closed door",
        ("core/wire.py", "transports/mqtt/codec.py", "transports/coap_message.py"),
        (
            f"{_A}::test_etsi_5_13_1_input_of_any_form_is_answered",
            "core/test_wire.py",
            "transports/mqtt/test_codec.py",
            "transports/test_coap_message.py",
        ),
    ),
    Clause(
        NIST,
        "device identification, logical access",
        "a unique identity, and who may what",
        "ids that are never given twice; roles and permissions down a tree of organizations",
        ("core/authorization.py", "services/organizations.py"),
        ("admin/test_isolation.py", "services/test_reach.py"),
    ),
    Clause(
        NIST,
        "cybersecurity state awareness",
        "what happens can be seen",
        "every attempt with its reason, an audit that cannot be altered unseen, events, metrics",
        ("services/attempts.py", "services/explain.py", "services/audit_chain.py", "services/outbox.py", "metrics.py"),
        ("services/test_explain.py", "services/test_audit_chain.py", "services/test_attempts.py"),
    ),
    Clause(
        IEC,
        "CR 1.2, RE 1",
        "devices are identified and authenticated, each uniquely",
        "tokens, MQTT basic credentials, certificates, pre-shared keys: one holder each",
        ("core/authentication.py", "services/access.py", "store/provisions.py"),
        ("services/test_access.py", "services/test_settlement.py"),
    ),
    Clause(
        IEC,
        "CR 1.5",
        "authenticators can be changed, and are refreshed",
        "rotation by the operator, by the device, and on expiry, with overlap",
        ("services/rotation.py", "services/expiry.py"),
        ("services/test_rotation.py",),
    ),
    Clause(
        IEC,
        "CR 1.8, CR 1.9",
        "PKI: chains, validity, revocation",
        "RFC 5280 path validation with CRLs that fail closed; an issuer vouches for one profile alone",
        ("core/chain.py", "core/authority.py", "services/enrollment.py"),
        (
            f"{_A}::test_iec_62443_1_9_an_issuer_vouches_for_its_own_profile_alone",
            "core/test_chain.py",
            "services/test_enrollment.py",
        ),
    ),
    Clause(
        IEC,
        "CR 1.11",
        "unsuccessful attempts are limited",
        "by address; no failed or unproven request changes what a key or a device may do",
        ("services/limits.py",),
        (f"{_A}::test_etsi_5_1_5_guesses_are_evaluated_up_to_a_limit_only",),
    ),
    Clause(
        IEC,
        "CR 2.8 … 2.12, CR 3.9",
        "audit, and its protection",
        "written by the transaction that does what it tells, chained with a MAC, verified against a signed head",
        ("store/audit.py", "core/auditchain.py", "services/audit_chain.py"),
        ("core/test_auditchain.py", "services/test_audit_chain.py"),
    ),
    Clause(
        IEC,
        "CR 4.1, CR 4.3",
        "confidentiality, by known cryptography",
        "HMAC-SHA256, AES-256-GCM, argon2id, HPKE: of `cryptography` and OpenSSL, none of our own",
        ("core/secrets.py", "core/passwords.py", "core/sealed.py"),
        ("core/test_secrets.py", "core/test_passwords.py"),
    ),
    Clause(
        IEC,
        "CR 7.1, CR 7.2",
        "denial of service; resources are limited",
        "bounds on what waits, on connections, handshakes, bodies, tables; storms are told when to come back",
        ("services/grouping.py", "transports/tls_stream.py", "transports/coap_exchanges.py"),
        ("services/test_grouping.py", "faults/test_idle_sockets.py", "transports/test_coap_exchanges.py"),
    ),
    Clause(
        ISVS,
        "2.1.9, 2.1.10",
        "no hard-coded credentials; unique ones",
        "the fleet's key provisions, and opens nothing; a leaked one has a budget and can be replaced",
        ("core/decision.py", "services/profiles.py"),
        (f"{_A}::test_etsi_5_1_2_what_others_may_know_of_a_device_opens_nothing", "services/test_profiles.py"),
    ),
    Clause(
        ISVS,
        "2.1.11",
        "credentials can be revoked",
        "at once, in every process, with the live session",
        ("services/sessions.py", "services/devices.py"),
        ("services/test_sessions.py", "services/test_devices.py"),
    ),
    Clause(
        ISVS,
        "2.1.12",
        "guessing is throttled",
        "with a hint when to come back",
        ("services/limits.py",),
        (f"{_A}::test_isvs_2_1_12_a_locked_address_says_when_to_come_back",),
    ),
    Clause(
        ISVS,
        "2.2.3",
        "ownership is validated on registration and on hand-over",
        "one claim of a code wins; a profile may want the device's own word as well",
        ("services/claiming.py", "services/handover.py"),
        (
            "services/test_claiming.py",
            "services/test_handover.py",
            "services/test_ownership_machine.py",
            "test_story.py",
        ),
    ),
    Clause(
        ISVS,
        "2.3.1 … 2.3.3",
        "encrypted at rest; decommissioning",
        "sealed columns, keys that rotate; delete, disclaim, quarantine",
        ("core/secrets.py", "services/key_rotation.py", "store/quarantine.py"),
        ("core/test_secrets.py", "services/test_key_rotation.py", "services/test_quarantine.py"),
    ),
    Clause(
        ISVS,
        "1.4.2, 1.4.4",
        "logs say enough, and no secret",
        "what a peer sends is not logged; what looks like a secret is taken out all the same",
        ("observability.py",),
        (f"{_P}::test_no_secret_is_anywhere_it_does_not_belong", "test_observability.py"),
    ),
    Clause(
        CRA,
        "",
        "secure by default; no default password; logging",
        "operators' listeners on loopback; a set-up link in a file of mode 0600 that is good for an hour, once",
        ("config.py", "admin/set_up.py"),
        ("test_config.py", "services/test_sign_in.py"),
    ),
    Clause(
        ATTACK,
        "existence",
        "do answers, or their time, tell whether a name, token or claim exists",
        "one answer for all, after the same work: medians of the time differ by 50 µs at most, measured: "
        "[limits](limits.md)",
        ("services/provisioning.py", "services/access.py", "services/claiming.py"),
        (
            f"{_A}::test_whether_a_name_exists_is_not_told_without_the_secret",
            f"{_A}::test_whether_a_token_exists_is_not_told",
            "services/test_access.py::test_what_is_unknown_takes_the_same_statements_as_what_is_known",
            "services/test_provisioning.py::test_an_unknown_key_takes_the_same_statements_as_a_wrong_secret",
            "services/test_claiming.py::test_what_is_unknown_takes_the_same_statements_as_what_is_claimed",
        ),
    ),
    Clause(
        ATTACK,
        "response-topic hijack",
        "who reads the answers of others",
        "nobody: our listener answers on the connection that asked",
        ("transports/mqtt/session.py",),
        (f"{_A}::test_nobody_reads_anothers_answer",),
    ),
    Clause(
        ATTACK,
        "wildcards in a client id",
        "does a client id become a topic, a path, a pattern",
        "it is compared, and nothing else",
        ("transports/mqtt/session.py",),
        (f"{_A}::test_a_client_id_is_no_topic",),
    ),
    Clause(
        ATTACK,
        "locking others out",
        "can who forges a datagram's source lock out the device that lives there",
        "plain datagrams are counted apart, and who shows by an Echo (RFC 9175 §2.3) that he is there is heard",
        ("services/limits.py", "transports/coap_echo.py", "transports/coap_resources.py", "transports/oscore.py"),
        ("transports/test_coap_echo.py", "services/test_limits.py"),
    ),
    Clause(
        ATTACK,
        "CoAP amplification",
        "what a spoofed datagram can have sent to a victim",
        "one datagram, never more than three times as long (RFC 9175 §2.4); DTLS asks for a cookie first",
        ("transports/coap_front.py", "transports/dtls_cookie.py"),
        (f"{_A}::test_a_spoofed_datagram_is_not_amplified", "transports/test_dtls_cookie.py"),
    ),
    Clause(
        ATTACK,
        "CSV formula injection",
        "does an exported cell run in a spreadsheet",
        "what begins like a formula is quoted",
        ("core/tokenexport.py",),
        ("core/test_tokenexport.py",),
    ),
    Clause(
        ATTACK,
        "QR guessing",
        "finding a code that claims a device",
        "codes of 190 bits; claims are limited, and unknown, deleted and claimed answer alike",
        ("services/claiming.py",),
        ("services/test_claiming.py",),
    ),
    Clause(
        ATTACK,
        "CSR",
        "CA:TRUE, odd names, weak keys, a signature that proves nothing",
        "the certificate is ours from its first byte to its last; of a request only the proven key is taken",
        ("core/signing.py",),
        ("core/test_signing.py",),
    ),
    Clause(
        ATTACK,
        "SSRF",
        "what a webhook's URL can reach",
        "one guarded client: resolved once, no private ranges, no redirects, bounds on time and size",
        ("adapters/outgoing.py", "adapters/webhook.py"),
        ("adapters/test_outgoing.py",),
    ),
    Clause(
        ATTACK,
        "CSRF, session fixation",
        "acting with somebody else's browser",
        "a token in a header, SameSite cookies, a new session at every sign-in",
        ("services/sign_in.py", "admin/listener.py"),
        ("admin/routes/test_session.py", "services/test_sign_in.py"),
    ),
    Clause(
        ATTACK,
        "organization confusion",
        "another organization's id in a path or a body",
        "a generated matrix tries every route as everybody",
        ("services/organizations.py",),
        ("admin/test_isolation.py",),
    ),
)
