"""A small app of its own whose users upload an avatar from the browser; docs/integrate.md explains it.

Its settings are in Ferryman's own .env; FERRYMAN_URL and FERRYMAN_KEY are for one elsewhere.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from flask import Flask, abort, g, jsonify, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from standardwebhooks import Webhook, WebhookVerificationError
from werkzeug.security import check_password_hash, generate_password_hash

from ferryman import Client, Problem

load_dotenv()
FERRYMAN = os.environ.get("FERRYMAN_URL", "http://localhost:5000")
KEY = os.environ.get("FERRYMAN_KEY") or None  # a service with AUTH=open wants none
DATABASE = os.environ.get("AVATARS_DATABASE", "var/avatars.db")
TYPES = ["image/png", "image/jpeg", "image/webp"]

app = Flask(__name__)
app.secret_key = os.environ.get("AVATARS_SECRET") or secrets.token_hex(32)
# A request that another site starts has no session, so nobody uploads or signs out in a user's name.
app.config["SESSION_COOKIE_SAMESITE"] = "Strict"
logins = LoginManager(app)


class User(UserMixin):  # type: ignore[misc]
    """A user of this app; Ferryman knows the id, and nothing else of them."""

    def __init__(self, row: sqlite3.Row) -> None:
        self.id = str(row["id"])
        self.name = row["name"]
        self.avatar = row["avatar"]


def database() -> sqlite3.Connection:
    """Return the request's connection."""
    if "database" not in g:
        Path(DATABASE).parent.mkdir(exist_ok=True)
        g.database = sqlite3.connect(DATABASE, isolation_level=None)
        g.database.row_factory = sqlite3.Row
        g.database.execute(
            "CREATE TABLE IF NOT EXISTS users"
            " (id INTEGER PRIMARY KEY, name TEXT UNIQUE, password TEXT, avatar TEXT)"
        )
    connection: sqlite3.Connection = g.database
    return connection


@app.teardown_appcontext
def close(_: BaseException | None) -> None:
    """Close the request's connection."""
    if "database" in g:
        g.database.close()


@logins.user_loader  # type: ignore[untyped-decorator]
def load_user(user_id: str) -> User | None:
    """Return the user of a session."""
    row = database().execute("SELECT * FROM users WHERE id = ?", (user_id,)).fetchone()
    return User(row) if row else None


@app.get("/")
def index() -> str:
    """Show the page."""
    return render_template("index.html")


@app.post("/login")
def login() -> ResponseReturnValue:
    """Sign in; a name that is new is a new user."""
    name, password = request.form["name"], request.form["password"]
    hashed = generate_password_hash(password)
    database().execute("INSERT OR IGNORE INTO users (name, password) VALUES (?, ?)", (name, hashed))
    row = database().execute("SELECT * FROM users WHERE name = ?", (name,)).fetchone()
    if not check_password_hash(row["password"], password):
        abort(403, "This is not the password of that name.")
    login_user(User(row))
    return redirect("/")


@app.post("/logout")
def logout() -> ResponseReturnValue:
    """Sign out."""
    logout_user()
    return redirect("/")


@app.post("/upload-token")
@login_required  # type: ignore[untyped-decorator]
def upload_token() -> ResponseReturnValue:
    """Let the user's browser upload one picture: for two minutes, as theirs, and for nothing else."""
    limits = {"max_files": 1, "max_bytes": 2_000_000, "content_types": TYPES, "modes": ["async"]}
    fixed = {"expires_in": 120, "grants": ["upload"], "metadata": {"purpose": "avatar"}}
    with Client(FERRYMAN, KEY) as ferryman:
        token = ferryman.create_token(current_user.id, **fixed, **limits).token
    return jsonify(token=token, address=f"{FERRYMAN}/async_upload")


@app.get("/me")
@login_required  # type: ignore[untyped-decorator]
def me() -> ResponseReturnValue:
    """Tell the page which avatar its user has."""
    return jsonify(avatar=current_user.avatar)


@app.get("/avatar")
@login_required  # type: ignore[untyped-decorator]
def avatar() -> ResponseReturnValue:
    """Show the user's own avatar, by a link that ends in a minute."""
    if not current_user.avatar:
        abort(404)
    with Client(FERRYMAN, KEY) as ferryman:
        return redirect(ferryman.link(current_user.avatar, expires_in=60, disposition="inline").url)


@app.post("/webhook")
def webhook() -> ResponseReturnValue:
    """Hear that a file is in S3; whose it is and what for, Ferryman says, not the browser."""
    try:
        message = Webhook(os.environ["WEBHOOK_SECRET"]).verify(request.get_data(), dict(request.headers))
    except WebhookVerificationError:
        abort(401)
    file: dict[str, Any] = message["data"]
    if message["type"] == "file.complete" and file["metadata"].get("purpose") == "avatar":
        replace_avatar(file["subject"], file["id"])
    return "", 204


def replace_avatar(user_id: str, file_id: str) -> None:
    """Keep the user's newest avatar, and delete the one before."""
    row = database().execute("SELECT avatar FROM users WHERE id = ?", (user_id,)).fetchone()
    database().execute("UPDATE users SET avatar = ? WHERE id = ?", (file_id, user_id))
    if row and row["avatar"] and row["avatar"] != file_id:
        with Client(FERRYMAN, KEY) as ferryman:
            try:
                ferryman.delete(row["avatar"])
            except Problem:  # it is gone already
                pass
