"""How each channel says what becomes of a device or its message: the table that every case is held against."""

from tests.conformance.channels.model import ALL, Channel, Verdict

NO_ANSWER = "no answer"
"""Of a DTLS handshake that fails: who cannot prove a key is not spoken to (RFC 6347 §4.1.2.7)."""

NO_HANDSHAKE = "no handshake"

# In the order of the columns: HTTP, HTTPS, MQTT 3.1.1, MQTT 5, MQTTS, CoAP, -PSK, -X.509, +OSCORE.
_ON = {
    Verdict.LET_IN: ("200", "200", "CONNACK 0", "CONNACK 0x00", "CONNACK 0x00", "2.01", "2.01", "2.01", "2.01"),
    Verdict.DONE: ("200", "200", "PUBACK", "PUBACK 0x00", "PUBACK 0x00", "2.01", "2.01", "2.01", "2.01"),
    Verdict.INVALID: ("400", "400", "closed", "PUBACK 0x99", "PUBACK 0x99", "4.00", "4.00", "4.00", "4.00"),
    Verdict.TOO_LARGE: ("413", "413", "closed", "DISCONNECT 0x95", "DISCONNECT 0x95", *("4.13",) * 4),
    Verdict.NO_TOPIC: ("404", "404", "PUBACK", "PUBACK 0x90", "PUBACK 0x90", "4.00", "4.00", "4.00", "4.00"),
    Verdict.CREDENTIALS: ("401", "401", "CONNACK 5", "CONNACK 0x86", "CONNACK 0x86", "4.01", "", "4.01", ""),
    Verdict.CLIENT_ID: ("", "", "CONNACK 2", "CONNACK 0x85", "CONNACK 0x85", "", "", "", ""),
    Verdict.NOTHING: ("401", "401", "CONNACK 5", "CONNACK 0x87", "CONNACK 0x87", "4.01", "", "4.01", ""),
    Verdict.CERTIFICATE: ("", "401", "", "", "CONNACK 0x87", "", "", "4.01", ""),
    Verdict.KEY: ("", NO_HANDSHAKE, "", "", NO_HANDSHAKE, "", NO_ANSWER, "", "4.00"),
    Verdict.GONE: ("401", "401", "CONNACK 5", "CONNACK 0x86", "CONNACK 0x86", "4.01", NO_ANSWER, "4.01", "4.01"),
    Verdict.UNAVAILABLE: ("503", "503", "CONNACK 3", "CONNACK 0x88", "CONNACK 0x88", "5.03", "", "5.03", "5.03"),
    Verdict.TAKEN_OVER: ("", "", "closed", "DISCONNECT 0x8E", "DISCONNECT 0x8E", "", "", "", ""),
    Verdict.REVOKED: ("", "", "closed", "DISCONNECT 0x98", "DISCONNECT 0x98", "", "", "", ""),
    Verdict.NO_HANDSHAKE: ("", NO_HANDSHAKE, "", "", NO_HANDSHAKE, "", "", NO_ANSWER, ""),
}


def code(verdict: Verdict, channel: Channel) -> str:
    """The HTTP status, the CoAP code, or the MQTT packet with its code."""
    return _ON[verdict][ALL.index(channel)]
