"""The server of labelling projects over real HTTP: links, judgements, and what it does with requests that mean harm."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from labels_toy import items, project, said
from toy_run import toy_comparison

from kit.errors import ConfigError, MachineError, RunError
from kit.labelling import terminal
from kit.labelling.serve import PORT, start
from kit.labels.project import Answer, Item

ROOT = Path(__file__).resolve().parents[1]
STRESS = Path(__file__).with_name("label_stress.py")
JUDGEMENTS = "/api/judgements"


@pytest.fixture
def serving(tmp_path):
    with start(project(tmp_path), {"ana": None, "ben": "north"}, port=0) as running:
        yield running


@pytest.fixture
def ana(serving):
    """Ana's browser, her link opened: it has a cookie, and names the page it sends from."""
    with httpx.Client(base_url=serving.url, headers={"Origin": serving.url}, timeout=60) as client:
        client.get(serving.link("ana"))
        yield client


@pytest.fixture
def program(serving):
    """Ana by the key of a page in a notebook: no cookie, no Origin."""
    key = {"Authorization": f"Bearer {serving.session('ana')}"}
    with httpx.Client(base_url=serving.url, headers=key, timeout=60) as client:
        yield client


def next_of(client: httpx.Client) -> dict:
    return client.get("/api/work").raise_for_status().json()["work"][0]


def stored(serving) -> int:
    return serving.desk.store.count()


def raw(serving, request: bytes) -> bytes:
    """What comes back for bytes that no library would send."""
    with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


class TestALink:
    def test_leaves_a_cookie_that_scripts_and_other_sites_cannot_use(self, serving):
        answer = httpx.get(serving.link("ana"))
        assert answer.status_code == 303
        assert httpx.URL(serving.link("ana")).join(answer.headers["location"]) == f"{serving.url}/"
        name, value, *rest = re.split("=|; ", answer.headers["set-cookie"])
        assert re.fullmatch("kit-[0-9a-f]{12}", name) and value == serving.session("ana")
        assert {"HttpOnly", "SameSite", "lax", "Path", "/"} <= set(rest) and "Domain" not in rest
        assert int(rest[rest.index("Max-Age") + 1]) > 300 * 24 * 3600

    def test_is_another_one_for_each_person_and_tells_nothing_of_the_session(self, serving):
        assert serving.link("ana") != serving.link("ben")
        assert serving.session("ana") not in serving.link("ana")

    def test_that_is_unknown_is_answered_by_a_page_that_says_so(self, serving):
        for token in ("x" * 43, serving.session("ana"), "%00", "%ff%fe", "ana", "'--"):
            answer = httpx.get(f"{serving.url}/join/{token}")
            assert answer.status_code == 403 and "not valid" in answer.text and "set-cookie" not in answer.headers
            assert answer.headers["content-type"].startswith("text/html") and "<script" not in answer.text
            assert answer.text == httpx.get(f"{serving.url}/no-link.html").text  # nothing of what was asked for

    def test_stays_as_it_is_over_a_restart_with_the_cookie_that_it_left(self, serving, ana):
        link = serving.link("ana")
        serving.stop()
        with start(serving.project, port=serving.port) as again:
            assert again.link("ana") == link and again.people == ["ana", "ben"]
            assert ana.get("/api/work").status_code == 200

    def test_is_invalid_after_new_ones_were_asked_for_and_so_is_its_cookie(self, serving, ana):
        link, cookie = serving.link("ana"), ana.headers
        serving.stop()
        with start(serving.project, port=serving.port, new_links=True) as again:
            assert httpx.get(link).status_code == 403
            assert ana.get("/api/work").status_code == 401 and cookie
            assert httpx.get(again.link("ana")).status_code == 303

    def test_lets_nobody_in_who_was_not_named_this_time(self, serving, ana):
        serving.stop()
        with start(serving.project, {"ben": None}, port=serving.port) as again:
            assert ana.get("/api/work").status_code == 401
            assert again.desk.store.annotators() == {"ana": None, "ben": "north"}, "ben's group stays"
            with pytest.raises(ConfigError, match="none of those"):
                again.link("ana")

    def test_is_for_me_where_nobody_was_named(self, tmp_path):
        with start(project(tmp_path), port=0) as alone:
            assert alone.people == ["me"] and httpx.get(alone.link("me")).status_code == 303

    def test_of_one_project_is_none_of_another_on_the_same_host(self, serving, ana, tmp_path):
        (tmp_path / "other").mkdir()
        with start(project(tmp_path / "other"), {"ana": None}, port=0) as other:
            ana.get(other.link("ana"))  # the same browser; cookies do not know ports
            assert len(ana.cookies) == 2
            assert ana.get("/api/work").status_code == 200
            assert httpx.get(f"{other.url}/join/{serving.link('ana').split('/')[-1]}").status_code == 403


class TestWorkAndJudgements:
    def test_go_round(self, serving, ana):
        work = ana.get("/api/work").json()
        assert work["annotator"] == "ana" and len(work["work"]) == 3 and work["progress"]["done"] == 0
        body = said(work["work"][0], [2, 1, 2])
        assert ana.post(JUDGEMENTS, json=body).json() == {"stored": body["id"], "again": False}
        assert ana.post(JUDGEMENTS, json=body).json() == {"stored": body["id"], "again": True}
        assert ana.get("/api/history").json()["judgements"][0]["ranks"] == [2, 1, 2]
        assert stored(serving) == 1

    def test_go_round_with_a_key_where_cookies_are_withheld(self, serving, program):
        assert program.post(JUDGEMENTS, json=said(next_of(program))).status_code == 200
        assert serving.desk.history("ana")

    def test_are_on_disk_when_they_are_acknowledged(self, serving, ana):
        ana.post(JUDGEMENTS, json=said(next_of(ana)))
        with sqlite3.connect(serving.project.store) as another:
            assert another.execute("SELECT count(*) FROM judgements").fetchone() == (1,)

    def test_show_what_stands_when_another_tab_was_first(self, ana):
        deal = next_of(ana)
        first = said(deal, [1, 2, 3], comment="first")
        ana.post(JUDGEMENTS, json=first)
        answer = ana.post(JUDGEMENTS, json=said(deal, [3, 2, 1]))
        assert answer.status_code == 409
        assert answer.json()["standing"]["comment"] == "first" and answer.json()["error"]
        answer = ana.post(JUDGEMENTS, json=said(deal, [3, 2, 1], supersedes=first["id"]))
        assert answer.status_code == 200

    def test_are_refused_about_what_waits_for_somebody_else(self, serving, ana):
        deal = serving.desk.work("ben")["work"][0]
        answer = ana.post(JUDGEMENTS, json=said(deal))
        assert answer.status_code == 400 and answer.json()["standing"] is None and stored(serving) == 0

    def test_of_a_megabyte_of_text_and_of_any_character_arrive_whole(self, tmp_path):
        long = "x" * 1_000_000 + "</script>\u202e\u2066\x00\x1b[2J"
        odd = (Answer("a", long), Answer("b", "<img src=x onerror=1>"), Answer("c", "half \ud83d"))
        content = [Item("p", [{"role": "user", "content": "\ud83d\u2028"}], odd)]
        with start(project(tmp_path, content), port=0) as running:
            answer = httpx.get(f"{running.url}/api/work", headers={"Authorization": f"Bearer {running.session('me')}"})
        assert answer.headers["content-type"] == "application/json"
        shown = answer.json()["work"][0]
        assert set(shown["answers"]) == {long, "<img src=x onerror=1>", "half ?"}
        assert shown["prompt"][0]["content"] == "?\u2028"


class TestWhoAsks:
    @pytest.mark.parametrize("path", ["/api/work", "/api/history"])
    def test_is_asked_for(self, serving, path):
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {serving.session('ana')}"},
            {"Authorization": f"Bearer {serving.link('ana').split('/')[-1]}"},  # the link's secret is not the session's
            {"Cookie": f"session={serving.session('ana')}"},
            {"Cookie": "kit-000000000000=" + serving.session("ana")},
        ):
            answer = httpx.get(serving.url + path, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"] and "work" not in answer.json()

    def test_is_asked_for_before_a_body_is_read(self, serving):
        answer = httpx.post(serving.url + JUDGEMENTS, content=b"no JSON")
        assert answer.status_code == 401

    def test_is_who_the_key_says_where_there_is_a_cookie_too(self, serving, ana):
        answer = ana.get("/api/work", headers={"Authorization": f"Bearer {serving.session('ben')}"})
        assert answer.json()["annotator"] == "ben"
        assert ana.get("/api/work", headers={"Authorization": "Bearer wrong"}).status_code == 401


class TestTheHost:
    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1:{port}@evil.example", "127.0.0.2",
         "localhost.evil.example:{port}", "", "127.0.0.1:{port}:1", "0.0.0.0:{port}", "[::2]:{port}", "127.0.0.1/x"],
    )  # fmt: skip
    def test_that_is_not_served_is_refused(self, serving, ana, host):
        for path in ("/", "/api/work", "/join/x", "/nix"):
            answer = ana.get(path, headers={"Host": host.format(port=serving.port)})
            assert answer.status_code in (400, 403) and "work" not in answer.text.split()

    @pytest.mark.parametrize(
        "host", ["localhost:{port}", "LOCALHOST:{port}", "127.0.0.1:9000", "[::1]:{port}", "localhost"]
    )
    def test_that_is_this_machine_is_served_whatever_the_port_of_a_tunnel(self, serving, ana, host):
        host = host.format(port=serving.port)
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert ana.get("/api/work", headers=headers).status_code == 200
        assert ana.post(JUDGEMENTS, json=said(next_of(ana)), headers=headers).status_code == 200

    def test_stands_in_every_request_once(self, serving):
        assert b" 403 " in raw(serving, b"GET /api/work HTTP/1.0\r\n\r\n").split(b"\n")[0]
        twice = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert re.match(rb"HTTP/1.1 40[03] ", raw(serving, twice))


class TestTheOrigin:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},  # another server of this machine
            {"Origin": "https://127.0.0.1:{port}"},
            {"Origin": "http://127.0.0.1:{port}.evil.example"},
            {"Origin": "http://localhost:{port}"},  # not the host that was asked for
            {"Origin": ""},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
        ],
    )
    def test_has_to_be_our_own_page(self, serving, ana, headers):
        headers = {name: value.format(port=serving.port) for name, value in headers.items()}
        answer = ana.post(JUDGEMENTS, json=said(next_of(ana)), headers=headers)
        assert answer.status_code == 403 and answer.json()["error"] and stored(serving) == 0

    def test_has_to_be_there_where_a_browser_may_have_added_a_cookie(self, serving, ana):
        body = said(next_of(ana))
        del ana.headers["Origin"]
        assert ana.post(JUDGEMENTS, json=body).status_code == 403
        assert ana.post(JUDGEMENTS, json=body, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 403
        assert stored(serving) == 0

    def test_of_another_site_is_refused_with_a_key_too(self, serving, program):
        answer = program.post(JUDGEMENTS, json=said(next_of(program)), headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403 and stored(serving) == 0

    def test_that_is_ours_is_taken(self, ana):
        headers = {"Sec-Fetch-Site": "same-origin"}
        assert ana.post(JUDGEMENTS, json=said(next_of(ana)), headers=headers).status_code == 200

    def test_is_never_told_that_it_may_read(self, serving, ana):
        asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        for answer in (ana.options(JUDGEMENTS, headers=asking), ana.get("/api/work", headers=asking)):
            assert not [name for name in answer.headers if name.startswith("access-control")]


class TestABody:
    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonp"]
    )
    def test_is_json_by_its_name(self, serving, ana, kind):
        body = json.dumps(said(next_of(ana)))
        answer = ana.post(JUDGEMENTS, content=body, headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == 415 and stored(serving) == 0

    def test_may_name_its_characters(self, ana):
        kind = {"Content-Type": "Application/JSON; charset=utf-8"}
        assert ana.post(JUDGEMENTS, content=json.dumps(said(next_of(ana))), headers=kind).status_code == 200

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"{", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"id": NaN}', b'{"id": -Infinity}', b'{"id": 1, "id": 2}',
            b'{"x": {"deal": 1, "deal": 1}}', b"[" * 60_000, b'{"a":' * 10_000, b"9" * 60_000, b"[]", b"{} {}",
            b'{"deal": ' + b"9" * 5_000 + b"}", b'{"seconds": 1e999}', b'"\\ud800"', b"null", b'{"id": "\\u0000"}',
            b"{'id': 1}",
        ],
    )  # fmt: skip
    def test_that_is_no_strict_json_is_400(self, serving, ana, content):
        answer = ana.post(JUDGEMENTS, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"] and answer.json()["standing"] is None
        assert "Traceback" not in answer.text and stored(serving) == 0

    def test_that_would_do_but_for_its_form_is_400(self, serving, ana):
        good = json.dumps(said(next_of(ana)))
        for content in (
            good.replace("{", '{"seconds": NaN, ', 1).encode(),
            good.replace("{", '{"seconds": Infinity, ', 1).encode(),
            good.replace("{", '{"comment": "one", "comment": "two", ', 1).encode(),
            good.encode("utf-16"),
            good.encode("utf-8-sig"),
            good.replace("{", '{"comment": "\xff", ', 1).encode("latin-1"),
        ):
            answer = ana.post(JUDGEMENTS, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400 and stored(serving) == 0, content

    def test_may_be_64_kib_and_not_a_byte_more(self, serving, ana):
        body = json.dumps(said(next_of(ana))).encode()
        kind = {"Content-Type": "application/json"}
        padded = body + b" " * (64 * 1024 - len(body))
        assert ana.post(JUDGEMENTS, content=padded + b" ", headers=kind).status_code == 413
        assert stored(serving) == 0
        assert ana.post(JUDGEMENTS, content=padded, headers=kind).status_code == 200

    def test_is_counted_as_it_comes_where_no_length_is_told(self, serving, ana):
        kind = {"Content-Type": "application/json"}
        answer = ana.post(JUDGEMENTS, content=(b" " * 1000 for _ in range(100)), headers=kind)
        assert answer.request.headers["transfer-encoding"] == "chunked"
        assert answer.status_code == 413 and answer.headers["connection"] == "close"

    def test_without_an_end_is_cut_off(self, serving):
        head = f"POST {JUDGEMENTS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {serving.session('ana')}\r\n"
        head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = 0
        with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as connection:
            connection.sendall(head.encode())
            try:
                while sent < 200 * 1024 * 1024:
                    connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                    sent += 65536
            except OSError:
                pass
        assert sent < 100 * 1024 * 1024  # buffers of the kernel among it
        assert httpx.get(f"{serving.url}/nix").status_code == 404, "and the server goes on"

    def test_that_breaks_off_is_not_stored(self, serving, ana):
        body = json.dumps(said(next_of(ana))).encode()
        head = f"POST {JUDGEMENTS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {serving.session('ana')}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n\r\n"
        raw(serving, head.encode() + body)
        assert httpx.get(f"{serving.url}/nix").status_code == 404 and stored(serving) == 0


class TestEveryAnswer:
    def test_holds_the_page_to_itself(self, serving, ana):
        answers = [
            ana.get("/"), ana.get(serving.link("ana")), ana.get("/join/wrong"), ana.get("/api/work"), ana.get("/nix"),
            ana.get("/api/work/"), ana.get(JUDGEMENTS), ana.post(JUDGEMENTS, json={}), ana.options("/"),
            httpx.get(f"{serving.url}/api/work"), ana.get("/", headers={"Host": "evil.example"}),
            ana.post(JUDGEMENTS, content=b" " * 70_000, headers={"Content-Type": "application/json"}),
        ]  # fmt: skip
        for answer in answers:
            found = answer.headers
            policy = dict(part.strip().split(" ", 1) for part in found["content-security-policy"].split(";"))
            assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'" and found["x-frame-options"] == "DENY"
            assert found["x-content-type-options"] == "nosniff" and found["referrer-policy"] == "no-referrer"
            assert found["cache-control"] == "no-store" and "server" not in found

    def test_may_be_framed_by_whom_the_notebook_names(self, tmp_path):
        frames = ("http://localhost:*", "https://*.googleusercontent.com")
        with start(project(tmp_path), port=0, frames=frames, hosts=(".googleusercontent.com",)) as running:
            answer = httpx.get(f"{running.url}/")
            assert f"frame-ancestors {' '.join(frames)}" in answer.headers["content-security-policy"]
            assert "x-frame-options" not in answer.headers
            proxied = {
                "Host": "abc-8765.googleusercontent.com", "Origin": "https://abc-8765.googleusercontent.com",
                "Authorization": f"Bearer {running.session('me')}",
            }  # fmt: skip
            assert httpx.post(running.url + JUDGEMENTS, json={}, headers=proxied).status_code == 400
            evil = "evilgoogleusercontent.com"
            for name, value in (("Host", evil), ("Origin", f"https://{evil}"), ("Origin", "https://evil.example")):
                answer = httpx.post(running.url + JUDGEMENTS, json={}, headers={**proxied, name: value})
                assert answer.status_code == 403

    @pytest.mark.parametrize(
        "method, path, status",
        [("GET", "/nix", 404), ("GET", "/page.py", 404), ("GET", "/../server.py", 404), ("GET", "/api/work/", 404),
         ("GET", "/join/a/b", 404), ("GET", JUDGEMENTS, 405), ("POST", "/api/work", 405), ("DELETE", JUDGEMENTS, 405),
         ("GET", "/page/index.html", 404), ("GET", "//evil.example", 404)],
    )  # fmt: skip
    def test_to_what_is_not_there_says_so(self, serving, method, path, status):
        answer = httpx.request(method, serving.url + path)
        assert answer.status_code == status and answer.json()["error"]

    def test_of_our_own_mistake_shows_nothing_of_the_inside(self, serving, ana, monkeypatch, caplog):
        def broken(_):
            raise ZeroDivisionError("inside")

        monkeypatch.setattr(serving.desk, "work", broken)
        answer = ana.get("/api/work")
        assert answer.status_code == 500 and answer.json()["error"] and "inside" not in answer.text
        serving.stop()  # what the terminal shows may come after the answer
        assert "ZeroDivisionError" in caplog.text
        assert serving.session("ana") not in caplog.text


class TestAStoreThatCannotWrite:
    def test_for_a_full_disk_acknowledges_nothing_and_takes_it_later(self, serving, ana):
        body = said(next_of(ana), comment="x" * 4000)
        pages = serving.desk.store.read("PRAGMA page_count")[0][0]
        serving.desk.store.read(f"PRAGMA max_page_count={pages}")
        answer = ana.post(JUDGEMENTS, json=body)
        assert answer.status_code == 507 and "full" in answer.json()["error"] and stored(serving) == 0
        serving.desk.store.read("PRAGMA max_page_count=1000000")
        assert ana.post(JUDGEMENTS, json=body).json() == {"stored": body["id"], "again": False}

    def test_for_another_writer_acknowledges_nothing_and_takes_it_later(self, serving, ana):
        body = said(next_of(ana))
        serving.desk.store.read("PRAGMA busy_timeout=100")
        other = sqlite3.connect(serving.project.store, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = ana.post(JUDGEMENTS, json=body)
        assert answer.status_code == 503 and "nothing was stored" in answer.json()["error"]
        other.execute("ROLLBACK")
        other.close()
        assert ana.post(JUDGEMENTS, json=body).status_code == 200 and stored(serving) == 1

    def test_for_a_read_only_file_acknowledges_nothing(self, serving, ana):
        body = said(next_of(ana))
        serving.desk.store.read("PRAGMA query_only=ON")
        assert ana.post(JUDGEMENTS, json=body).status_code == 503
        serving.desk.store.read("PRAGMA query_only=OFF")
        assert stored(serving) == 0 and ana.post(JUDGEMENTS, json=body).status_code == 200


class TestBehindAProxy:
    def test_the_outward_address_is_served_and_cookies_are_for_https_alone(self, tmp_path):
        with start(project(tmp_path), {"ana": None}, port=0, url="https://label.example.org/") as running:
            assert running.link("ana").startswith("https://label.example.org/join/")
            path = httpx.URL(running.link("ana")).path
            for host in ("label.example.org", f"127.0.0.1:{running.port}"):  # proxies hand on the one or the other
                answer = httpx.get(running.local_url + path, headers={"Host": host})
                assert answer.status_code == 303 and "Secure" in answer.headers["set-cookie"]
                cookie = answer.headers["set-cookie"].split(";")[0]
                headers = {"Host": host, "Cookie": cookie, "Origin": "https://label.example.org"}
                assert httpx.post(running.local_url + JUDGEMENTS, json={}, headers=headers).status_code == 400
                headers["Origin"] = "https://other.example.org"
                assert httpx.post(running.local_url + JUDGEMENTS, json={}, headers=headers).status_code == 403

    @pytest.mark.parametrize(
        "url", ["label.example.org", "ftp://x", "https://", "https://a@b", "https://x:y", "http://x?y"]
    )
    def test_the_outward_address_is_one(self, tmp_path, url):
        with pytest.raises(ConfigError, match="--url"):
            start(project(tmp_path), {"ana": None}, url=url)


class TestStarting:
    def test_a_project_has_one_server(self, serving):
        with pytest.raises(RunError, match=rf"in use by process {os.getpid()} .*stop it first"):
            start(serving.project, port=0)
        serving.stop()
        serving.stop()
        start(serving.project, port=0).stop()

    def test_the_next_free_port_is_taken_unless_one_was_named(self, serving, tmp_path):
        running = []
        try:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                running.append(start(project(tmp_path / name)))
            assert PORT <= running[0].port < running[1].port
            with pytest.raises(ConfigError, match=f"--port {serving.port}: taken"):
                (tmp_path / "three").mkdir()
                start(project(tmp_path / "three"), port=serving.port)
        finally:
            for one in running:
                one.stop()

    @pytest.mark.parametrize("listen", ["no.such.host.invalid", "192.0.2.1", "a b", "::::"])
    def test_an_address_that_is_not_ours_is_a_message(self, tmp_path, listen):
        with pytest.raises(ConfigError, match="--listen"):
            start(project(tmp_path), {"ana": None}, listen=listen)

    def test_without_starlette_or_uvicorn_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        with pytest.raises(MachineError, match=r"pip install 'rlhf-kit\[label\]'"):
            start(project(tmp_path), port=0)

    def test_what_fails_leaves_the_project_free(self, tmp_path):
        made = project(tmp_path)
        with pytest.raises(ConfigError):
            start(made, listen="192.0.2.1", port=0)
        start(made, port=0).stop()

    def test_other_machines_reach_it_by_its_addresses_alone(self, tmp_path):
        with start(project(tmp_path), {"ana": None}, listen="0.0.0.0", port=0) as running:
            assert "0.0.0.0" not in running.url
            for host, status in (
                (running.url[7:], 401),
                ("localhost", 401),
                (socket.gethostname(), 401),
                ("evil.example", 403),
            ):
                answer = httpx.get(f"http://127.0.0.1:{running.port}/api/work", headers={"Host": host})
                assert answer.status_code == status, host


# Tests that run in the background ignore Ctrl-C, and so would what they start.
_COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from kit.cli import main
main()
"""


def command(*arguments: str, cwd: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "label", *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment,
    )  # fmt: skip


def printed(process: subprocess.Popen) -> str:
    """What it prints until it serves."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            return "".join(lines)
    raise AssertionError("".join(lines) + process.stderr.read())


class TestTheCommand:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_serves_until_it_is_asked_to_stop_and_logs_no_secret(self, tmp_path, number):
        project(tmp_path)
        process = command("toy", "--annotators", "ana,benjamin:north", "--port", "0", cwd=tmp_path)
        assert process.wait() == 2, "port 0 is none that a person would name"
        process.stdout.close(), process.stderr.close()
        process = command("toy", "--annotators", "ana,benjamin:north", cwd=tmp_path)
        text = printed(process)
        found = dict(re.findall(r"  (\w+) +(http://127\.0\.0\.1:\d+/join/\w+)\n", text))
        assert (
            found.keys() == {"ana", "benjamin"}
            and len({line.index("http") for line in text.splitlines() if "/join/" in line}) == 1
        )
        assert "6 items to rank, 0 judgements so far" in text and "WAL" in text and "local disk" in text
        url = found["ana"].split("/join/")[0]
        with httpx.Client(base_url=url, headers={"Origin": url}) as ana:
            ana.get(found["ana"])
            assert ana.post(JUDGEMENTS, json=said(next_of(ana))).status_code == 200
            ana.get("/join/wrong")
            ana.get(found["ana"] + "x")
            process.send_signal(number)
            output, errors = process.communicate()
        assert process.returncode == 0 and "stopped; 1 judgement in toy" in output
        assert not errors and not [secret for secret in found.values() if secret.split("/")[-1] in output + errors]
        assert not (tmp_path / "toy" / "judgements.sqlite-wal").exists()

    def test_goes_on_from_what_a_killed_one_left(self, tmp_path):
        project(tmp_path)
        links = []
        for _ in range(2):
            process = command("toy", cwd=tmp_path)
            links.append(re.findall(r"/join/(\w+)", printed(process)))
            process.kill()
            process.communicate()
        assert links[0] == links[1] and len(links[0]) == 1

    @pytest.mark.parametrize(
        "arguments, text",
        [
            (("toy", "--listen", "0.0.0.0"), "--annotators ana,ben"),
            (("toy", "--url", "https://x.example"), "--annotators ana,ben"),
            (("toy", "--annotators", "a/b"), "is no name"),
            (("nix",), "no such folder"),
            ((".",), "holds no project.json"),
            (("--port", "9000"), "name a project"),
            (("backup", "toy", "toy.tar"), "name a .zip file"),
        ],
    )
    def test_says_what_is_wrong_in_a_line(self, tmp_path, arguments, text):
        project(tmp_path)
        process = command(*arguments, cwd=tmp_path)
        output, errors = process.communicate()
        assert process.returncode == 2 and text in errors and errors.count("\n") == 1 and not output

    def test_makes_a_backup_while_it_serves(self, serving, ana, tmp_path):
        ana.post(JUDGEMENTS, json=said(next_of(ana)))
        process = command("backup", "toy", "toy.zip", cwd=tmp_path)
        output, errors = process.communicate()
        assert process.returncode == 0 and "1 judgement; without the secret" in output and not errors
        assert ana.get("/api/work").status_code == 200

    def test_serves_a_blind_comparison_of_a_run_and_makes_it_once(self, tmp_path):
        run = toy_comparison(tmp_path, prompts=6, equal=1).relative_to(tmp_path)
        for before in (0, 1):
            process = command("--ab", str(run), cwd=tmp_path)
            text = printed(process)
            (link,) = re.findall(r"http://\S+/join/\w+", text)
            assert f"pairs to compare, {before} judgement" in text
            url = link.split("/join/")[0]
            with httpx.Client(base_url=url, headers={"Origin": url}) as me:
                me.get(link)
                work = me.get("/api/work").json()
                assert work["kind"] == "ab" and all(len(one["answers"]) == 2 for one in work["work"])
                assert me.post(JUDGEMENTS, json=said(work["work"][0], [1, 1])).status_code == 200
            process.terminate()
            process.communicate()
        assert [path.name for path in (tmp_path / "labels").iterdir()] == ["toy-ab"]

    def test_helps(self, tmp_path):
        output, _ = command("--help", cwd=tmp_path).communicate()
        for word in ("--annotators", "--listen", "--new-links", "export", "import", "backup", "--ab"):
            assert word in output


class TestWhatItPrints:
    @staticmethod
    def shown(capsys, **options) -> tuple[str, str]:
        with start(**options) as running:
            given = {name: options.get(name) for name in ("port", "url")}
            terminal._show(running, options.get("listen", "127.0.0.1"), **given)
        return capsys.readouterr()

    def test_tells_of_a_rollback_journal_on_a_network(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("kit.labels.store.on_network", lambda _: True)
        output, _ = self.shown(capsys, project=project(tmp_path), port=0)
        assert "rollback journal, as it lies on a network file system" in output

    def test_says_that_http_is_not_encrypted_where_others_reach_it(self, tmp_path, capsys):
        output, _ = self.shown(capsys, project=project(tmp_path), people={"ana": None}, listen="0.0.0.0", port=0)
        assert "not encrypted" in output and "ssh -L" in output
        (tmp_path / "two").mkdir()
        output, _ = self.shown(capsys, project=project(tmp_path / "two"), port=0)
        assert "encrypted" not in output

    def test_says_who_is_not_let_in_and_when_there_are_too_few(self, tmp_path, capsys):
        made = project(tmp_path, items(3), per_item=3)
        self.shown(capsys, project=made, people={"ana": None, "ben": None}, port=0)
        _, errors = self.shown(capsys, project=made, people={"ben": None, "cay": None}, port=0)
        assert "not let in this time: ana" in errors and "by 3 people, and 2 are let in" in errors


class TestUnderStress:
    def test_what_was_acknowledged_is_stored_once_over_kills_and_restarts(self):
        arguments = ("--annotators", "10", "--each", "12", "--processes", "3", "--kills", "2")
        done = subprocess.run([sys.executable, str(STRESS), *arguments], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.endswith("0 problems\n"), done.stdout + done.stderr[-2000:]
        assert done.stdout.count("killed after") == 2 and "the first answer to 0 did" not in done.stdout
        assert "120 judgements of 10 annotators" in done.stdout
