"""`kit label PROJECT` in a terminal: what is served to whom, until it is stopped."""

from contextlib import closing, suppress
from urllib.parse import urlsplit

from kit import notices
from kit.errors import ConfigError, printable
from kit.labelling.serve import PORT, Serving, is_local, start
from kit.labels.project import Project
from kit.labels.store import Store
from kit.runs import signals


def serve(
    project: Project,
    people: dict[str, str | None] | None,
    listen: str = "127.0.0.1",
    port: int | None = None,
    url: str | None = None,
    new_links: bool = False,
) -> None:
    """Serve a project until Ctrl-C, SIGTERM or a closed terminal, which are the way to end it. Raises KitError."""
    if people is None and (url is not None or not is_local(listen)):
        option = "--url" if url is not None else "--listen"
        raise ConfigError(f"{option}: say who gets a link of their own: --annotators {_known(project) or 'ana,ben'}")
    with signals.handled():
        serving = start(project, people, listen=listen, port=port, url=url, new_links=new_links)
        with serving, suppress(signals.Interrupted):
            _show(serving, listen, port, url)
            while serving.wait(1.0):
                pass
        with suppress(OSError):  # a terminal that was closed
            _say(f"\nkit: stopped; {_counted(serving.judgements)} in {project.path}")


def _show(serving: Serving, listen: str, port: int | None, url: str | None) -> None:
    project, desk = serving.project, serving.desk
    at = serving.port
    what = "items to rank" if project.kind == "rank" else "pairs to compare"
    _say(f"{project.path}: {len(project.items)} {what}, {_counted(desk.store.count())} so far")
    kept = (
        "in WAL, as it lies on a local disk"
        if desk.store.journal == "wal"
        else "with a rollback journal, as it lies on a network file system, where WAL is not safe"
    )
    _say(f"Every judgement is on disk in {project.store.name} before it is acknowledged ({kept}).")
    if port is None and at != PORT:
        _say(f"Port {PORT} is taken; this is {at}.")
    alone = len(serving.people) == 1
    _say("\nOpen this link:" if alone else "\nOne secret link each; who has it judges under that name:")
    width = max(map(len, serving.people))
    for name in serving.people:
        # The one place that shows them. No control character is in a name, nor in a link.
        print(f"  {serving.link(name)}" if alone else f"  {name:<{width}}  {serving.link(name)}", flush=True)
    out = [name for name in desk.store.annotators() if name not in serving.people]
    if out:
        notices.warn(f"not let in this time: {', '.join(out)}; --annotators names all who are")
    if not alone and len(serving.people) < project.per_item:
        notices.warn(
            f"each item is to be judged by {project.per_item} people, and {len(serving.people)} are let in; name more"
        )
    if url is not None and urlsplit(url).scheme == "https":
        _say(f"\nLet the proxy at {url} hand on what comes to {serving.local_url}.")
    elif url is not None or not is_local(listen):
        _say(
            "\nThis is not encrypted (http): who shares the network can read along, and take over a link. On a network "
            "that you do\nnot trust, leave --listen out and go through ssh (on their machine: ssh -L "
            f"{at}:127.0.0.1:{at} this-machine), or let a\nproxy with TLS stand before it (--url https://...); "
            "docs/labels.md has both."
        )
    _say("\nCtrl-C stops it. Nothing is lost by that, and the links stay as they are; --new-links makes them invalid.")


def _counted(judgements: int) -> str:
    return f"{judgements:,} judgement{'' if judgements == 1 else 's'}"


def _known(project: Project) -> str:
    """Who is in the store, as --annotators takes it."""
    if not project.store.exists():
        return ""
    with closing(Store(project.store, read_only=True)) as store:
        known = store.annotators()
    return ",".join(name if group is None else f"{name}:{group}" for name, group in known.items())


def _say(text: str) -> None:
    print(printable(text), flush=True)
