"""Sends the webhook's messages: signed, with retries, in threads of their own."""

from __future__ import annotations

import logging
import random
import time
from http import HTTPStatus
from typing import Any

import urllib3
from flask import Flask
from sqlalchemy import Row
from standardwebhooks import Webhook as Signer
from urllib3.exceptions import HTTPError

from config import Config
from core.background import Loop
from core.database import utcnow
from events import webhooks

log = logging.getLogger(__name__)

SENDERS = 4  # so that one slow answer does not hold up the others
IDLE_SECONDS = 1.0
CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0
SEND_LEASE_SECONDS = 60.0  # longer than any attempt
STOP_SECONDS = 2.0  # with what deliveries may take, less than gunicorn's graceful_timeout
MINUTE, HOUR = 60, 3600
PAUSES = (5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
"""Seconds between attempts; after the last one a message is given up.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""


class Sender:
    """Sends due messages in threads of its own, from start to stop. A no-op without WEBHOOK_URL.

    Args:
        app: the app whose messages it sends.
    """

    def __init__(self, app: Flask) -> None:
        config: Config = app.extensions["ferryman"].config
        self._url, self._secret = config.WEBHOOK_URL or "", config.WEBHOOK_SECRET or ""
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._http = urllib3.PoolManager(timeout=timeout, retries=False, maxsize=SENDERS)
        senders = SENDERS if self._url else 0
        self._loops = [Loop(app, "webhooks", self.send_one, IDLE_SECONDS) for _ in range(senders)]

    def start(self) -> None:
        """Start to send due messages."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Start no more sends. A send without an answer is repeated when its lease is over."""
        for loop in self._loops:
            loop.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for loop in self._loops:
            loop.stop(max(0.0, deadline - time.monotonic()))

    def send_one(self) -> bool:
        """Send one due message. Returns False if there is none."""
        message = webhooks.claim(SEND_LEASE_SECONDS)
        if message:
            self._send(message)
        return message is not None

    def _send(self, message: Row[Any]) -> None:
        try:
            status = self._post(message)
        except HTTPError as error:
            self._fail(message, f"No answer ({type(error).__name__}).")  # its text would show the address
            return
        except Exception:  # else the message would be due again and again, without ever being given up
            log.exception("webhook %s cannot be sent", message.id)
            self._fail(message, "It cannot be sent.")
            return
        if 200 <= status < 300:
            webhooks.succeed(message)
        else:
            self._fail(message, f"Answered {status}.", is_final=status == HTTPStatus.GONE)

    def _post(self, message: Row[Any]) -> int:
        now = utcnow()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Ferryman",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Signer(self._secret).sign(message.id, now, message.body),
        }
        body = message.body.encode()
        # Nobody reads the answer's body, which could be of any length.
        with self._http.request(
            "POST", self._url, body=body, headers=headers, redirect=False, preload_content=False
        ) as answer:
            return answer.status

    def _fail(self, message: Row[Any], error: str, is_final: bool = False) -> None:
        log.warning("webhook %s, attempt %d: %s", message.id, message.attempts, error)
        if is_final or message.attempts > len(PAUSES):
            webhooks.give_up(message, error)
        else:
            webhooks.postpone(message, random.uniform(0.9, 1.1) * PAUSES[message.attempts - 1], error)
