"""What is to be reached: ratios within one run, medians, durable commits, full product behaviour."""

from benchmarks.results import Mark

MARKS = (
    Mark("http", "HTTP provisions/s ÷ pgbench best, one process", 1.2),
    Mark("http_two", "HTTP provisions/s ÷ pgbench best, two processes", 1.5),
    Mark("mqtt", "MQTT full provision exchange, new connection each, ÷ pgbench best", 1.0),
    Mark("coap", "CoAP provisions/s ÷ pgbench best", 1.5),
    Mark("coap_aiocoap", "CoAP provisions/s ÷ aiocoap's stock server", 6),
    Mark("http_slow_4ms", "HTTP provisions/s ÷ pgbench best, fdatasync +4 ms", 2),
    Mark("mqtt_connect", "MQTT connect + token authentication/s ÷ mosquitto connect without authentication", 0.5),
    Mark("exchange_mosquitto", "four-packet exchange without database ÷ mosquitto", 0.85),
    Mark("exchange_amqtt", "four-packet exchange without database ÷ aMQTT", 20),
    Mark("tls", "TLS 1.3 full handshake + MQTT connect with client certificate ÷ mosquitto", 1.1),
    Mark("p99_http", "p99 at half of peak, HTTP (ms)", 10, at_least=False, of="value"),
    Mark("p99_mqtt", "p99 at half of peak, MQTT (ms)", 10, at_least=False, of="value"),
    Mark("p99_coap", "p99 at half of peak, CoAP (ms)", 10, at_least=False, of="value"),
    Mark("lone_http", "lone request p50, HTTP (ms)", 2, at_least=False, of="value"),
    Mark("lone_mqtt", "lone request p50, MQTT (ms)", 2, at_least=False, of="value"),
    Mark("lone_coap", "lone request p50, CoAP (ms)", 2, at_least=False, of="value"),
    Mark("growth_5m", "provisions/s at 5 M devices ÷ at 10 k", 0.85),
    Mark("memory_plain", "resident memory per idle MQTT session, plain (KiB)", 8, at_least=False, of="value"),
    Mark("memory_tls", "resident memory per idle MQTT session, TLS (KiB)", 48, at_least=False, of="value"),
    Mark("start_cold", "cold start to ready, database up (s)", 1, at_least=False, of="value"),
    Mark(
        "start_embedded", "start to ready with the embedded database, from nothing (s)", 3, at_least=False, of="value"
    ),
    Mark("csv_import", "CSV import of devices (rows/s)", 20_000, of="value"),
)

CONDITIONS = (
    Mark("soak_failed", "requests that failed in a soak of ten minutes at half of peak", 0, at_least=False, of="value"),
    Mark("soak_logged", "errors that the server logged in the soak", 0, at_least=False, of="value"),
    Mark("soak_memory", "server's memory at the end of the soak ÷ at half time", 1.05, at_least=False),
)
