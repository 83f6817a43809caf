"""Many annotators hand in rankings while the server is killed and started again: what was acknowledged is in the store.

    python tests/label_stress.py [--annotators 50] [--each 200] [--processes 8] [--kills 5] [--seed 0]

The server is `kit label` as a process of its own, ended by SIGKILL at random moments. The annotators are threads of
several processes, each with a connection of its own; each sends a judgement under the same id until it is acknowledged.
Some are sent twice on purpose, and of some the connection is closed before the answer can come. What has to hold in the
end: every acknowledged judgement is stored once, as it was sent; no other is; every link stayed as it was; nobody was
given an item twice; SQLite finds the file whole.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import random
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
K = 4
WAIT = 120.0  # seconds in which a server has to answer again


class Server:
    """`kit label` as a process, on one port, started anew after each kill."""

    def __init__(self, project: Path, names: list[str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = log
        self._command = [sys.executable, "-m", "kit.cli", "label", str(project), "--annotators", ",".join(names),
                         "--port", str(self.port)]  # fmt: skip
        self.links: dict[str, str] = {}
        self.problems: list[str] = []

    def start(self) -> None:
        """Start it, and read the links that it prints: the same each time."""
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log.open("a"), text=True, env=environment
        )
        links = {}
        for line in self._process.stdout:
            if found := re.fullmatch(r"  (\S+) +(http://\S+/join/\S+)\n", line):
                links[found[1]] = found[2]
            if "Ctrl-C stops it" in line:
                break
        else:
            self.problems.append(f"the server did not start: {self._log.read_text()[-2000:]}")
        if self.links and links != self.links:
            self.problems.append("the links changed at a restart")
        self.links = links

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._end()

    def stop(self) -> None:
        """SIGTERM, which has to end it with 0."""
        self._process.send_signal(signal.SIGTERM)
        if (code := self._end()) != 0:
            self.problems.append(f"the server ended with {code}")

    def _end(self) -> int:
        self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait()


class Annotator(threading.Thread):
    """A person at their page: asks for work and hands in until there is none; a file notes what was acknowledged."""

    def __init__(self, name: str, link: str, seed: int, file: Path, acknowledged) -> None:
        super().__init__(name=name)
        self._host, _, self._path = link.removeprefix("http://").partition("/")
        self._random, self._file, self._acknowledged = random.Random(f"{seed} {name}"), file, acknowledged
        self._connection: http.client.HTTPConnection | None = None
        self._cookie = ""
        self.latencies: list[float] = []
        self.unheard = 0  # judgements that were stored, and whose first answer did not arrive
        self.problems: list[str] = []

    def run(self) -> None:
        try:
            with self._file.open("w") as self._notes:
                status, _ = self._until_answered("GET", f"/{self._path}")
                if status != 303:
                    self.problems.append(f"{self.name}: the link gave {status}")
                while work := self._work():
                    for deal in work["work"]:
                        self._judge(deal, work["guidelines"]["sha256"])
        except Exception as error:
            self.problems.append(f"{self.name}: {error!r}")

    def _work(self) -> dict | None:
        status, answer = self._until_answered("GET", "/api/work")
        if status != 200:
            self.problems.append(f"{self.name}: work gave {status} {answer}")
            return None
        return answer if answer["work"] else None

    def _judge(self, deal: dict, guidelines: str) -> None:
        draw = self._random
        said = {
            "id": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
            "deal": deal["deal"],
            "guidelines_sha256": guidelines,
            "comment": f"{self.name} on {deal['deal']}: {draw.random()}",
            "seconds": round(draw.uniform(1, 90), 1),
        }
        if draw.random() < 0.05:
            said["skip"] = "cannot tell"
        else:
            said["ranks"] = [draw.randint(1, K) for _ in range(K)]
        if draw.random() < 0.05:
            self._send_and_hang_up(said)
        status, answer = self._until_answered("POST", "/api/judgements", said, self.latencies)
        if status != 200 or answer["stored"] != said["id"]:
            self.problems.append(f"{self.name}: a judgement gave {status} {answer}")
            return
        self.unheard += answer["again"]
        self._notes.write(json.dumps({**said, "annotator": self.name}) + "\n")
        with self._acknowledged.get_lock():
            self._acknowledged.value += 1
        if draw.random() < 0.05:
            status, answer = self._until_answered("POST", "/api/judgements", said)
            if status != 200 or not answer["again"]:
                self.problems.append(f"{self.name}: sent again, it gave {status} {answer}")

    def _until_answered(self, method: str, path: str, body=None, latencies: list[float] | None = None):
        """(status, JSON) of the first answer that is no fault of a server that is going or coming."""
        end = time.monotonic() + WAIT
        while True:
            began = time.monotonic()
            try:
                status, answer = self._once(method, path, body)
                if status < 500:
                    if latencies is not None:
                        latencies.append(time.monotonic() - began)
                    return status, answer
            except (OSError, http.client.HTTPException):
                self._hang_up()
            if time.monotonic() > end:
                raise TimeoutError(f"no answer to {method} {path} in {WAIT:.0f} s")
            time.sleep(self._random.uniform(0.02, 0.2))

    def _once(self, method: str, path: str, body):
        self._ask(method, path, body)
        answer = self._connection.getresponse()
        content = answer.read()
        if cookie := answer.getheader("Set-Cookie"):
            self._cookie = cookie.split(";")[0]
        return answer.status, json.loads(content) if content else None

    def _ask(self, method: str, path: str, body) -> None:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, timeout=WAIT)
        headers = {"Cookie": self._cookie, "Origin": f"http://{self._host}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)

    def _send_and_hang_up(self, said: dict) -> None:
        """A connection that is lost on the way: the server may have stored it, and nobody hears of it."""
        with suppress(OSError, http.client.HTTPException):
            self._ask("POST", "/api/judgements", said)
            if self._random.random() < 0.5:  # the answer was on its way
                select.select([self._connection.sock], [], [], WAIT)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def annotate(names: list[str], links: dict[str, str], seed: int, folder: Path, acknowledged, told) -> None:
    """One process: some annotators side by side; their latencies and problems into `told`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    people = [Annotator(name, links[name], seed, folder / f"{name}.jsonl", acknowledged) for name in names]
    for person in people:
        person.start()
    for person in people:
        person.join()
    latencies = [x for person in people for x in person.latencies]
    told.put((latencies, [x for person in people for x in person.problems], sum(person.unheard for person in people)))


def compare(path: Path, folder: Path, names: list[str], each: int) -> list[str]:
    """What differs between the acknowledged judgements and the store, in lines."""
    from kit.labels.project import open_project
    from kit.labels.store import Store

    project = open_project(path)
    acknowledged = [json.loads(line) for name in names for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    sent = {one["id"]: one for one in acknowledged}
    store = Store(project.store, read_only=True)
    deals = {deal.id: deal for deal in store.deals()}
    stored = store.judgements(all_of_them=True)
    problems = []
    if (whole := store.read("PRAGMA integrity_check")) != [("ok",)]:
        problems.append(f"the store is damaged: {whole}")
    if len(sent) != len(acknowledged) or len(sent) != len(names) * each:
        problems.append(
            f"{len(acknowledged)} were acknowledged, {len(sent)} of them different; wanted {len(names) * each}"
        )
    if len({one.client for one in stored}) != len(stored) or len({one.deal for one in stored}) != len(stored):
        problems.append("a judgement, or one of the same deal, is stored twice")
    if len({(deal.annotator, deal.item) for deal in deals.values()}) != len(deals):
        problems.append("an item was given to a person twice")
    problems += [f"{one} was acknowledged and is not stored" for one in sent.keys() - {one.client for one in stored}]
    for one in stored:
        said, deal = sent.get(one.client), deals[one.deal]
        if said is None:
            problems.append(f"{one.client} is stored and was not acknowledged")
            continue
        if one.ranks is None:
            ranks = None
        else:
            by_name = dict(zip((answer.name for answer in project.items[deal.item].answers), one.ranks, strict=True))
            ranks = [by_name[name] for name in deal.shown]
        wanted = said.get("ranks")
        dense = None if wanted is None else [sorted(set(wanted)).index(rank) + 1 for rank in wanted]
        here = (deal.annotator, one.deal, ranks, one.skip, one.comment, one.seconds, one.guidelines)
        there = (said["annotator"], said["deal"], dense, said.get("skip"), said["comment"], said["seconds"],
                 said["guidelines_sha256"])  # fmt: skip
        if here != there:
            problems.append(f"{one.client} is stored as {here} and was sent as {there}")
    store.close()
    return problems


def stress(annotators: int, each: int, processes: int, kills: int, seed: int) -> list[str]:
    """Run it; what went wrong, in lines."""
    sys.path.insert(0, str(HERE.parent))
    from kit.labels.project import Answer, Item, create_project

    draw = random.Random(seed)
    names = [f"person{n:02}" for n in range(annotators)]
    with tempfile.TemporaryDirectory(prefix="kit-label-") as made:
        folder = Path(made)
        items = [
            Item(f"p{n}", [{"role": "user", "content": f"Question {n}?"}],
                 tuple(Answer(f"a{k}", f"Answer {k} to question {n}. " * 20) for k in range(K)))
            for n in range(each)
        ]  # fmt: skip
        project = create_project(folder / "stress", items, per_item=annotators, seed=seed).path
        server = Server(project, names, folder / "server.log")
        server.start()
        if server.problems:
            return server.problems
        fork = multiprocessing.get_context("fork")
        acknowledged, told = fork.Value("i", 0), fork.Queue()
        workers = [
            fork.Process(target=annotate, args=(names[n::processes], server.links, seed, folder, acknowledged, told))
            for n in range(processes)
        ]
        began = time.monotonic()
        for worker in workers:
            worker.start()
        total, outages = annotators * each, []
        for moment in sorted(draw.uniform(0.02, 0.95) * total for _ in range(kills)):
            while acknowledged.value < moment and any(worker.is_alive() for worker in workers):
                time.sleep(draw.uniform(0.001, 0.02))
            if not any(worker.is_alive() for worker in workers):
                server.problems.append("the annotators came to their end before the last kill")
                break
            down = time.monotonic()
            server.kill()
            at = acknowledged.value
            time.sleep(draw.uniform(0, 0.5))
            server.start()
            outages.append(time.monotonic() - down)
            print(f"killed after {at} acknowledged; up again {outages[-1]:.1f} s later", flush=True)
        results = [told.get() for _ in workers]
        seconds = time.monotonic() - began
        for worker in workers:
            worker.join()
        server.stop()
        latencies = [x for found, _, _ in results for x in found]
        problems = [*server.problems, *(x for _, found, _ in results for x in found)]
        log = (folder / "server.log").read_text()
        problems += [f"the server said:\n{log[-3000:]}"] if "Traceback" in log else []
        problems += compare(project, folder, names, each)
    up = seconds - sum(outages)
    middle, late = (x * 1000 for x in (statistics.median(latencies), statistics.quantiles(latencies, n=20)[-1]))
    print(
        f"{len(latencies)} judgements of {annotators} annotators in {processes} processes, {len(outages)} kills: "
        f"{seconds:.1f} s, {up:.1f} s of it with a server; {len(latencies) / up:.0f} judgements/s; latency median "
        f"{middle:.0f} ms, 95 % {late:.0f} ms, most {max(latencies) * 1000:.0f} ms; the first answer to "
        f"{sum(unheard for _, _, unheard in results)} did not arrive"
    )
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("annotators", 50), ("each", 200), ("processes", 8), ("kills", 5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    problems = stress(**vars(parser.parse_args()))
    print(f"{len(problems)} problems")
    for text in problems[:20]:
        print(text)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
