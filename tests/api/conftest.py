"""The Flask app over a real database: SQLite, or what KUMO_TEST_DATABASE_URL names; no host, no worker."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, select
from werkzeug.routing import Rule

from web.app import create_app
from web.auth import hash_password
from web.bootstrap import apply_bootstrap
from web.models import Assignment, Base, Database, Host, Project, Role, User, now
from web.settings import build_settings

# The API builds no URLs. What werkzeug compiles for that is most of the cost of an app, and each test makes one.
Rule._compile_builder = lambda self, append_unknown=True: lambda self: None

PASSWORDS = {"admin": "admin-secret", "demo": "demo-secret", "other": "other-secret", "reader": "reader-secret"}


class Cloud:
    """The app, its database, and requests to it as some user."""

    def __init__(self, settings, database):
        self.settings, self.database = settings, database
        self.app = create_app(settings, database=database)
        self.http = self.app.test_client()
        self._tokens: dict[str, str] = {}

    def login(self, user: str) -> str:
        """A token of admin, demo (member of demo), reader (reader of demo) or other (member of other)."""
        if user not in self._tokens:
            project = "demo" if user == "reader" else user
            body = {
                "auth": {
                    "identity": {
                        "methods": ["password"],
                        "password": {"user": {"name": user, "domain": {"id": "default"}, "password": PASSWORDS[user]}},
                    },
                    "scope": {"project": {"name": project, "domain": {"id": "default"}}},
                }
            }
            answer = self.http.post("/identity/v3/auth/tokens", json=body)
            assert answer.status_code == 201, answer.text
            self._tokens[user] = answer.headers["X-Subject-Token"]
        return self._tokens[user]

    def call(self, method: str, path: str, body=None, user: str | None = "demo", version: str | None = None, **options):
        """Flask's test response to a request as ``user`` (None: no token), at a microversion of its service."""
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers.setdefault("X-Auth-Token", self.login(user))
        if version is not None:
            name = "volume" if path.startswith("/volume") else "compute"
            headers["OpenStack-API-Version"] = f"{name} {version}"
        if body is not None:
            options["data"] = body if isinstance(body, str | bytes) else json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        return self.http.open(path, method=method, headers=headers, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.call("POST", path, {} if body is None else body, **options)

    def put(self, path, body=None, **options):
        return self.call("PUT", path, {} if body is None else body, **options)

    def patch(self, path, body=None, **options):
        return self.call("PATCH", path, {} if body is None else body, **options)

    def delete(self, path, **options):
        return self.call("DELETE", path, **options)


@pytest.fixture(scope="session")
def postgresql_url(worker_id):
    """The URL of a database of this test process's own, in the server of KUMO_TEST_DATABASE_URL; empty: SQLite."""
    given = os.environ.get("KUMO_TEST_DATABASE_URL")
    if not given:
        yield ""
        return
    name = f"kumo_{worker_id}"
    server = create_engine(given, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = make_url(given).set(database=name).render_as_string(hide_password=False)
    database = Database(url)
    Base.metadata.create_all(database.engine)
    database.engine.dispose()
    yield url
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """A SQLite file with every table and no row."""
    path = tmp_path_factory.mktemp("template") / "kumo.db"
    database = Database(f"sqlite:///{path}")
    Base.metadata.create_all(database.engine)
    database.engine.dispose()
    return path


@pytest.fixture(scope="session")
def session_database(tmp_path_factory, postgresql_url):
    """One engine for all tests of this process, which keeps the statements that it has compiled.

    SQLite: of a link to the file of the test that runs, so that nothing which a test left open sees another's.
    """
    database = Database(postgresql_url or f"sqlite:///{tmp_path_factory.mktemp('database')}/kumo.db")
    yield database
    database.engine.dispose()


@pytest.fixture
def settings(tmp_path, session_database):
    """Settings of a cloud whose files are below the test's own folder."""
    return build_settings(
        {
            ("kumo", "state_dir"): str(tmp_path / "state"),
            ("kumo", "run_dir"): str(tmp_path / "run"),
            ("kumo", "log_dir"): "",
            ("database", "url"): session_database.url,
            ("identity", "key_dir"): str(tmp_path / "keys"),
            ("identity", "password_rounds"): "4",
            ("policy", "file"): str(tmp_path / "policy.yaml"),
        }
    )


@pytest.fixture
def database(session_database, tmp_path, sqlite_template):
    """A database with every table and no row."""
    database = session_database
    if database.is_sqlite:
        link = Path(database.engine.url.database)
        link.unlink(missing_ok=True)
        link.symlink_to(shutil.copyfile(sqlite_template, tmp_path / "kumo.db"))
    else:
        # Not TRUNCATE, which makes new files for every table and index: a test leaves few rows in few tables.
        deletions = [f"DELETE FROM {table.name}" for table in reversed(Base.metadata.sorted_tables)]
        with database.engine.begin() as connection:
            connection.exec_driver_sql(";".join(["SET LOCAL session_replication_role = replica", *deletions]))
    yield database
    if database.is_sqlite:
        database.engine.dispose()  # its connections are to this test's file


@pytest.fixture
def cloud(settings, database):
    """A bootstrapped cloud: projects admin, demo, other; one host, seen up with 8 cores, 16 GiB, 100 GB."""
    with database.write.begin() as session:
        apply_bootstrap(session, settings, PASSWORDS)
        session.flush()
        for name, project_name, role_name in (("other", "other", "member"), ("reader", "demo", "reader")):
            project = session.scalar(select(Project).where(Project.name == project_name))
            if project is None:
                project = Project(domain_id="default", name=project_name)
                session.add(project)
            user = User(domain_id="default", name=name, password_hash=hash_password(PASSWORDS[name], 4))
            session.add(user)
            session.flush()
            role = session.scalar(select(Role).where(Role.name == role_name))
            session.add(Assignment(user_id=user.id, role_id=role.id, target_kind="project", target_id=project.id))
        host = session.scalar(select(Host))
        host.observed_generation = host.generation
        host.observed_at = now()
        host.observed = {
            "host": {
                "hostname": host.name,
                "vcpus": 8,
                "memory_mb": 16384,
                "memory_free_mb": 15000,
                "disk_gb": 100,
                "disk_free_gb": 90,
                "hypervisor_type": "QEMU",
                "hypervisor_version": 7002022,
                "virt_type": "qemu",
                "cpu_info": {"model": "qemu64", "arch": "x86_64"},
                "running_vms": 0,
                "uptime_s": 1000,
                "load": [0.1, 0.1, 0.1],
                "storage": {"backend": "file", "total_gb": 100, "free_gb": 90, "snapshot_in_use": False},
            }
        }
    return Cloud(settings, database)
