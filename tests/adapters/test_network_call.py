import asyncio
from typing import Any

import pytest

from provserver.adapters.network_call import call, succeeded
from provserver.adapters.outgoing import Outgoing, Response
from provserver.core.onboarding import Rejected, TryAgain
from tests.adapters.conftest import Endpoint, serving

NOW = 1_700_000_000.0
HEADERS = {"Authorization": "Bearer pl4nted"}


async def asked(endpoint: Endpoint, outgoing: Outgoing, method: str = "PUT", body: Any = None) -> Response:
    return await call(outgoing, method, endpoint.url, HEADERS, body, "network", lambda: NOW)


async def failed(endpoint: Endpoint, outgoing: Outgoing, status: int, **headers: str) -> TryAgain:
    """What a call says that may do another time."""
    endpoint.status = lambda _: status
    endpoint.answer_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(TryAgain) as told:
        await asked(endpoint, outgoing)
    return told.value


@pytest.mark.parametrize(("status", "good"), [(200, True), (201, True), (204, True), (400, False), (404, False)])
async def test_what_is_final_is_returned_be_it_good_or_bad(
    endpoint: Endpoint, outgoing: Outgoing, status: int, good: bool
) -> None:
    endpoint.status = lambda _: status
    response = await asked(endpoint, outgoing)
    assert (response.status, succeeded(response)) == (status, good)
    assert endpoint.headers["Authorization"] == "Bearer pl4nted"


async def test_a_body_is_json_and_nothing_is_none(endpoint: Endpoint, outgoing: Outgoing) -> None:
    await call(
        outgoing,
        "POST",
        endpoint.url,
        HEADERS | {"Content-Type": "application/json"},
        [{"data": "é"}],
        "network",
        lambda: NOW,
    )
    assert endpoint.requests == [["é"]]
    await asked(endpoint, outgoing)
    assert endpoint.headers.get("Content-Length", "0") == "0"


@pytest.mark.parametrize("status", [408, 425, 499, 500, 502, 503, 599])
async def test_what_may_work_another_time(endpoint: Endpoint, outgoing: Outgoing, status: int) -> None:
    told = await failed(endpoint, outgoing, status)
    assert (told.reason, told.after) == (f"The network has failed (HTTP {status}).", None)
    assert (await failed(endpoint, outgoing, status, Retry_After="7")).after == 7.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1.0),
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "1000000"}, 3600.0),
        ({"Retry_After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"Retry_After": "soon"}, 1.0),
        ({"X_Rate_Limit_Retry": "3"}, 4.0),  # cut to whole seconds: 3.9 may be meant
        ({"X_Rate_Limit_Retry": "0", "Retry_After": "7"}, 1.0),
        ({"X_Rate_Limit_Retry": "999999999"}, 3600.0),
        ({"X_Rate_Limit_Retry": "9" * 400, "Retry_After": "7"}, 7.0),
        ({"X_Rate_Limit_Retry": "-3"}, 1.0),
        ({"X_Rate_Limit_Retry": "\u00b2"}, 1.0),
    ],
)
async def test_a_network_may_ask_to_be_left_alone(
    endpoint: Endpoint, outgoing: Outgoing, headers: dict[str, str], seconds: float
) -> None:
    told = await failed(endpoint, outgoing, 429, **headers)
    assert (told.reason, told.after) == ("The network takes no more requests just now (HTTP 429).", seconds)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_nobody_is_followed_elsewhere(endpoint: Endpoint, outgoing: Outgoing, status: int) -> None:
    endpoint.status = lambda _: status
    endpoint.answer_headers = {"Location": "http://127.0.0.1:1/pl4nted"}
    with pytest.raises(Rejected) as told:
        await asked(endpoint, outgoing)
    assert told.value.reason == f"The network sends us elsewhere (HTTP {status})."
    assert "pl4nted" not in told.value.reason + told.value.remedy


async def test_who_may_not_be_called_is_not(endpoint: Endpoint) -> None:
    async with Outgoing() as public_only:
        with pytest.raises(Rejected) as told:
            await asked(endpoint, public_only)
    assert "outgoing_private" in told.value.reason
    assert endpoint.headers == {}


async def test_who_is_not_there_may_be_later(outgoing: Outgoing) -> None:
    endpoint = Endpoint()
    async with serving(endpoint):
        pass
    with pytest.raises(TryAgain) as told:
        await asked(endpoint, outgoing)
    assert told.value.reason.startswith("The network: ")
    assert told.value.after is None
    assert "pl4nted" not in told.value.reason


async def test_who_ends_the_connection_may_be_well_later(outgoing: Outgoing) -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    endpoint = Endpoint()
    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(TryAgain, match=r"^The network: "):
            await asked(endpoint, outgoing)
