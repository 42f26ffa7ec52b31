"""Checks of what is around us: the broker and its topics, our files, the ways out, our own port. Sends no message."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiosmtplib

from alerts.channels.guard import RefusedTargetError, check_address, check_url
from consumers.broker import BrokerUnavailable
from consumers.broker.survey import Survey, TopicSurvey, survey
from health.yamlfile import FileError
from service.doctor.finding import Finding, fault, ok, warning
from service.settings import Settings

DAY_MS = 86_400_000
CONNECT_SECONDS = 5.0
BROKER_SECONDS = 12.0


async def broker(settings: Settings) -> tuple[Finding, Survey | None]:
    try:
        found = await survey(settings.kafka_bootstrap, settings.events_topics, timeout_seconds=BROKER_SECONDS)
    except BrokerUnavailable as error:
        remedy = "start the broker, or correct KIZASHI_KAFKA_BOOTSTRAP; its advertised address must lead there too"
        return fault("broker", str(error), remedy), None
    brokers = f"{found.brokers} broker{'s' if found.brokers > 1 else ''}"
    return ok("broker", f"{settings.kafka_bootstrap} answers: cluster {found.cluster_id}, {brokers}"), found


def topics(settings: Settings, found: Survey) -> list[Finding]:
    """Whether they exist, have equally many partitions, and keep records as long as makes sense."""
    missing = [topic for topic in settings.events_topics if topic not in found.topics]
    findings = [
        fault("topics", f"there is no topic {topic}", "run `kizashi migrate`, which makes it, or correct "
              "KIZASHI_EVENTS_TOPICS") for topic in missing
    ]  # fmt: skip
    counts = {topic: seen.partitions for topic, seen in found.topics.items()}
    shown = ", ".join(f"{topic} {count}" for topic, count in counts.items())
    if len(set(counts.values())) > 1:
        what = f"the topics differ in their number of partitions ({shown})"
        findings.append(fault("topics", what, "give all the same number: an account must have one reader"))
    elif counts and settings.events_partitions not in counts.values():
        what = f"{shown} partitions, while KIZASHI_EVENTS_PARTITIONS is {settings.events_partitions}"
        findings.append(warning("topics", what, "set it to the topic's number; adding partitions moves accounts"))
    for topic, seen in found.topics.items():
        findings += _retention(settings, topic, seen)
    return findings or [ok("topics", f"partitions: {shown}")]


def _retention(settings: Settings, topic: str, seen: TopicSurvey) -> list[Finding]:
    kept = seen.retention_ms
    if kept is None:
        return []
    if 0 <= kept < DAY_MS:
        what = f"{topic} keeps records for {kept / 3_600_000:.1f} h: what is unread by then is lost"
        return [warning("topics", what, "raise the topic's retention.ms to some days")]
    if kept < 0 or kept > settings.dedup_window_days * DAY_MS:
        time = "for ever" if kept < 0 else f"{kept / DAY_MS:.0f} days"
        what = f"{topic} keeps records {time}, repeated events are recognised for {settings.dedup_window_days} days"
        remedy = "read again from its start, it would count older events twice: raise KIZASHI_DEDUP_WINDOW_DAYS to it"
        return [warning("topics", what, remedy)]
    return []


def files(settings: Settings) -> list[Finding]:
    """Rules with their tests, scorecards, people."""
    from alerts.rules import RulebookError, check_book, load
    from health import scorecards
    from health.catalogue import SIGNALS
    from health.custom import NONE

    findings = []
    declared = NONE
    try:
        book = load(settings.rules_dir, SIGNALS)
        declared = book.custom
        failing = check_book(book)
        if failing:
            what = f"{len(failing)} of the rules' own tests fail, first {failing[0]}"
            findings.append(warning("rules", what, f"see `kizashi rules check {settings.rules_dir}`"))
        else:
            findings.append(ok("rules", f"{len(book.rules)} rules load and pass their tests"))
    except RulebookError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        what = f"{error.problems[0]}{more}"
        findings.append(fault("rules", what, f"see `kizashi rules check {settings.rules_dir}`"))
    try:
        scorecards.load(settings.rules_dir / "scorecards", declared)
        findings.append(ok("scorecards", "load"))
    except FileError as error:
        findings.append(fault("scorecards", str(error.problems[0]), "correct the file"))
    return [*findings, *_people(settings)]


def _people(settings: Settings) -> list[Finding]:
    import os

    from service.people_file import PeopleFileError, parse

    if settings.people_file is None:
        return []
    try:
        found = parse(settings.people_file.read_text(encoding="utf-8"), os.environ)
    except (OSError, UnicodeDecodeError) as error:
        return [fault("people", f"{settings.people_file} cannot be read: {error}", "correct KIZASHI_PEOPLE_FILE")]
    except PeopleFileError as error:
        return [fault("people", str(error), "correct the file; those already stored stay until then")]
    return [ok("people", f"{len(found)} people in {settings.people_file.name}")]


async def channels(settings: Settings) -> list[Finding]:
    """Each way out that is set up: how far we come without saying anything."""
    webhooks = (
        ("slack", settings.slack_webhook_url, "KIZASHI_SLACK_WEBHOOK_URL"),
        ("webhook", settings.webhook_url, "KIZASHI_WEBHOOK_URL"),
    )
    findings = [
        await _url(name, url.get_secret_value(), variable, allow_private=settings.allow_private_targets)
        for name, url, variable in webhooks
        if url is not None
    ]
    if settings.webhook_url is not None:
        findings += _signature(settings)
    if settings.smtp_host is not None:
        findings.append(await _mail(settings))
    if not findings:
        remedy = "set KIZASHI_SLACK_WEBHOOK_URL, KIZASHI_SMTP_HOST or KIZASHI_WEBHOOK_URL"
        return [warning("channels", "no way out is set up: alerts show on the board only", remedy)]
    return findings


async def _url(check: str, url: str, variable: str, *, allow_private: bool) -> Finding:
    """Name and TCP connection only; the address itself is a secret and stays unsaid."""
    try:
        parsed = check_url(url, allow_private=allow_private)
        port = parsed.port or {"https": 443, "http": 80}[parsed.scheme]
        found = await asyncio.get_running_loop().getaddrinfo(parsed.host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
        if not allow_private:
            for address in addresses:
                check_address(address)
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(addresses[0], port)
        writer.close()
    except RefusedTargetError as error:
        return fault(check, str(error), f"correct {variable}")
    except (socket.gaierror, UnicodeError):
        return fault(check, "the host's name does not resolve", f"correct {variable}, or this machine's name server")
    except (OSError, TimeoutError) as error:
        what = f"no connection to the host ({type(error).__name__})"
        return fault(check, what, "let this machine reach it (firewall, proxy)")
    return ok(check, "the host is reachable (nothing was sent)")


def _signature(settings: Settings) -> list[Finding]:
    from alerts import channels as ways_out
    from service.channel_settings import channel_settings

    if settings.webhook_secret is None:
        remedy = "set it to whsec_ and 24 to 64 random bytes in base64"
        return [fault("webhook", "KIZASHI_WEBHOOK_SECRET is not set", remedy)]
    try:
        ways_out.build(channel_settings(settings))
    except ValueError as error:
        return [fault("webhook", str(error), "correct the setting it names")]
    return []


async def _mail(settings: Settings) -> Finding:
    password = settings.smtp_password
    client = aiosmtplib.SMTP(
        hostname=settings.smtp_host, port=settings.smtp_port, username=settings.smtp_username,
        password=None if password is None else password.get_secret_value(),
        use_tls=settings.smtp_tls == "tls", start_tls=settings.smtp_tls == "starttls", timeout=CONNECT_SECONDS,
    )  # fmt: skip
    where = f"{settings.smtp_host}:{settings.smtp_port}"
    try:
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            await client.connect()
            await client.noop()
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit()
    except aiosmtplib.SMTPAuthenticationError as error:
        what = f"{where} refuses our sign-in ({error.code})"
        return fault("mail", what, "correct KIZASHI_SMTP_USERNAME and _PASSWORD")
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        remedy = f"correct KIZASHI_SMTP_HOST, _PORT and _TLS (now {settings.smtp_tls}), or let this machine reach it"
        return fault("mail", f"{where} cannot be used: {type(error).__name__}", remedy)
    finally:
        client.close()
    return ok("mail", f"{where} answers (nothing was sent)")


async def port(settings: Settings) -> Finding:
    """Free, or ours."""
    where = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((settings.host, settings.port))
        except OSError as error:
            if await _is_ours(settings):
                return ok("port", f"the API runs on {where}")
            what = f"{where} cannot be had: {error.strerror}"
            return fault("port", what, "stop what uses it, or set KIZASHI_PORT to another")
    return ok("port", f"{where} is free")


async def _is_ours(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, settings.port)
            try:
                writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    return answer.startswith(b"HTTP/1.1 200")
